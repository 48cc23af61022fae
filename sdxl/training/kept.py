"""What a training leaves beside its checkpoint for `python -m sdxl report`: its record."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdxl.config import content_key
from sdxl.config.content_key import plain
from sdxl.config.schema.train import TrainConfig
from sdxl.core import environment, records, secrets
from sdxl.core.errors import UserError
from sdxl.core.record import Environment, Record, TrainingFacts
from sdxl.training.speed import Meter

FILE = "record.json"
_SPEED = ("samples_per_s", "step_ms", "data_wait", "tflops", "share_of_peak", "peak_memory_gib")


def figures(folder: Path, steps: int) -> dict[str, float] | None:
    """Those of a training whose record was written after so many steps; None where it was not."""
    try:
        training = records.read(folder / FILE).training
    except (OSError, UserError):
        return None
    if training is None or training.steps != steps:
        return None
    return {"step": steps, "resumed_at": steps, **training.figures}


def write(
    config: TrainConfig,
    folder: Path,
    figures: Mapping[str, float],
    meter: Meter,
    seconds: float,
    typed: Sequence[str],
) -> Path:
    """`record.json` in `folder`, of this process's part of the training; returns its path.

    `typed`: the words of the command.
    """
    settings, measured, facts = config.train, meter.whole(), meter.facts()
    step, resumed = int(figures["step"]), int(figures["resumed_at"])
    done = step >= settings.steps
    record = Record(
        key=content_key.key(config.train, config.seed, str(folder.name)),
        config=secrets.hidden(plain(config)),
        command=shlex.join(["python", "train.py", *map(secrets.hide, typed)]),
        status="ok",
        reason="" if done else f"train.max_s is over after {step:,} of {settings.steps:,} steps",
        comparable=False,
        comparable_reason="a training of our own, not MLPerf's",
        training=TrainingFacts(
            stage=settings.name,
            folder=str(folder),
            steps=step,
            resumed_at=resumed,
            batch=settings.batch,
            **{name: measured.get(name) for name in _SPEED},
            tflop_per_sample=facts.pop("tflop_per_sample"),
            peak_of=facts.pop("peak_of"),
            figures={n: v for n, v in figures.items() if n not in ("step", "resumed_at")},
            other=facts,
        ),
        environment=Environment.from_json(environment.describe()),
        durations={"total_s": seconds},
    )
    return records.write(record, folder)
