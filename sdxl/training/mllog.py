"""MLPerf training's log lines, `:::MLLOG {...}`, with every key that its rounds up to 5.0 check.

Between two evaluations lies a block. Settings are written once, and `run_stop` stands once at the
end: a training that goes on takes back the one of its stop, and what comes again.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlperf_logging.mllog import constants as key
from mlperf_logging.mllog.mllog import MLLogger

from sdxl.config.schema.train import Training
from sdxl.core import json_file
from sdxl.core.paths import PACKAGE
from sdxl.training.recipe import highest_rate

TRACKED = "tracked_stats"
"""A key that submitters write beside the checked ones, with what they measured."""
MARK = ":::MLLOG "
_EVALUATION = (key.EVAL_START, key.EVAL_ACCURACY, key.EVAL_STOP)


@dataclass(frozen=True)
class Told:
    """What is trained, and on how much. Only `stable_diffusion` is a benchmark of MLPerf's."""

    train_samples: int
    eval_samples: int
    seed: int
    benchmark: str
    division: str = key.OPEN


def now_ms() -> int:
    """This moment, as log lines have it."""
    return int(time.time() * 1e3)


class Log:
    """One file of log lines; of a training that goes on, `resumed` samples are seen."""

    def __init__(self, file: Path, resumed: int | None = None) -> None:
        self.fresh = resumed is None or not file.is_file()
        self._in_block = not self.fresh and _trimmed(file, resumed or 0)
        self._free = resumed or 0, now_ms()  # samples and moment at which a block would begin
        # Of its own, not logging's registry: nothing of it is printed, and it ends with the run.
        lines = logging.Logger("mllog", logging.INFO)
        self._handler = logging.FileHandler(file, "w" if self.fresh else "a", delay=True)
        lines.addHandler(self._handler)
        self._mllog = MLLogger(lines, root_dir=re.escape(str(PACKAGE.parent)))

    def begin(self, settings: Training, told: Told, began_ms: int, run_ms: int) -> None:
        """What is trained, and how; nothing where that is told already.

        began_ms, run_ms: when the program began, and when it was about to touch the data.
        """
        self._free = self._free[0], run_ms
        if not self.fresh:
            return
        self._mllog.start(key.INIT_START, time_ms=began_ms)
        hyper = {
            key.SUBMISSION_BENCHMARK: told.benchmark,
            key.SUBMISSION_DIVISION: told.division,
            key.SUBMISSION_ORG: "none",
            key.SUBMISSION_PLATFORM: platform.machine(),
            key.SUBMISSION_STATUS: key.RESEARCH,
            key.CACHE_CLEAR: False,
            key.SEED: told.seed,
            key.GLOBAL_BATCH_SIZE: settings.batch,
            key.GRADIENT_ACCUMULATION_STEPS: settings.accumulate,
            key.OPT_NAME: key.ADAMW,
            key.OPT_ADAMW_BETA_1: settings.beta1,
            key.OPT_ADAMW_BETA_2: settings.beta2,
            key.OPT_ADAMW_EPSILON: settings.epsilon,
            key.OPT_ADAMW_WEIGHT_DECAY: settings.weight_decay,
            key.OPT_BASE_LR: highest_rate(settings),
            key.OPT_LR_WARMUP_STEPS: settings.warmup_steps,
            key.TRAIN_SAMPLES: told.train_samples,
            key.EVAL_SAMPLES: told.eval_samples,
        }
        if settings.clip_norm is not None:
            hyper[key.OPT_GRADIENT_CLIP_NORM] = settings.clip_norm
        for name, value in hyper.items():
            self._mllog.event(name, value, time_ms=began_ms)
        self._mllog.end(key.INIT_STOP, time_ms=run_ms)
        self._mllog.start(key.RUN_START, time_ms=run_ms)

    def step(self, samples: int) -> None:
        """A step is done; the first of a block opens it where what came before it had ended."""
        if not self._in_block:
            place = {key.SAMPLES_COUNT: self._free[0]}
            self._mllog.start(key.BLOCK_START, metadata=place, time_ms=self._free[1])
            self._in_block = True
        self._free = samples, now_ms()

    def kept(self, samples: int, measured: Mapping[str, float]) -> None:
        """The block is over: weights are kept, to be scored after the clock."""
        if self._in_block:
            place: dict[str, Any] = {key.SAMPLES_COUNT: samples}
            if "samples_per_s" in measured:
                self._mllog.event(TRACKED, _tracked(measured), metadata=place)
            self._mllog.end(key.BLOCK_STOP, metadata=place)
            self._in_block = False
        self._free = samples, now_ms()

    def evaluating(self, samples: int, measured: Mapping[str, float]) -> None:
        """The block is over, and an evaluation begins."""
        self.kept(samples, measured)
        self._mllog.start(key.EVAL_START, metadata={key.SAMPLES_COUNT: samples})

    def evaluation(self, samples: int, figures: dict[str, float]) -> None:
        """The figures of the evaluation that is over."""
        place: dict[str, Any] = {key.SAMPLES_COUNT: samples}
        for name, value in figures.items():
            self._mllog.event(key.EVAL_ACCURACY, value, {**place, "metric": name})
        self._mllog.end(key.EVAL_STOP, metadata=place)
        self._free = samples, now_ms()

    def end(self, status: str) -> None:
        """The end of this process's part."""
        word = key.SUCCESS if status == "FINISHED" else key.ABORTED
        self._mllog.end(key.RUN_STOP, metadata={key.STATUS: word})
        self._handler.close()


def _tracked(measured: Mapping[str, float]) -> dict[str, float]:
    """Of a block, as submitters write it: samples/s, seconds, GiB."""
    return {
        "throughput": measured["samples_per_s"],
        "train_step_time": measured["step_ms"] / 1e3,
        "max_memory_usage": measured["peak_memory_gib"],
    }


def _trimmed(file: Path, samples: int) -> bool:
    """Drop what comes again after `samples` samples; whether the log then stands inside a block.

    That is the end of the run, steps and evaluations after the checkpoint, and an evaluation that
    was not finished.
    """
    told = [line for text in file.read_text().splitlines() if (line := read(text))]
    finished = {samples_of(line) for _, line in told if line["key"] == key.EVAL_STOP}
    kept = [
        (text, line)
        for text, line in told
        if line["key"] != key.RUN_STOP
        and samples_of(line) <= samples
        and (line["key"] not in _EVALUATION or samples_of(line) in finished)
    ]
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text("".join(f"{text}\n" for text, _ in kept))
    beside.replace(file)
    blocks = [line["key"] for _, line in kept if line["key"] in (key.BLOCK_START, key.BLOCK_STOP)]
    return blocks[-1:] == [key.BLOCK_START]


def read(text: str) -> tuple[str, dict[str, Any]] | None:
    """A line with what it says; None for half of one, which a kill has left."""
    try:
        line = json_file.parse(text.removeprefix(MARK))
    except (json.JSONDecodeError, ValueError):
        return None
    return (text, line) if isinstance(line, dict) and "key" in line else None


def samples_of(line: dict[str, Any]) -> int:
    """Those that a line says were seen."""
    return int((line.get("metadata") or {}).get(key.SAMPLES_COUNT, 0))
