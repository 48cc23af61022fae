"""The weights that a training keeps on its way, each in a folder named by its step and samples."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.core import json_file, store
from sdxl.core.errors import UserError
from sdxl.training import put

FOLDER, FACTS = "series", "series.json"
_NAME = re.compile(r"step_num=(\d+)-samples_count=(\d+)")


@dataclass(frozen=True)
class Kept:
    """Weights as they were after so many steps."""

    folder: Path
    step: int
    samples: int


def due(step: int, every: int | None, batch: int) -> bool:
    """Whether a step is a multiple of CEIL(every / batch), as MLPerf counts samples."""
    return every is not None and step % -(-every // batch) == 0


def keep(training: Path, step: int, samples: int, export: Callable[[Path], None]) -> None:
    """Put the weights of a step in place, whole."""
    put.whole(training / FOLDER / f"step_num={step}-samples_count={samples}", export)


def begin(training: Path, facts: Mapping[str, Any], done: int) -> None:
    """Say what the series is of; weights of steps that come again, or of before, are none of it."""
    for kept in _all(training):
        if kept.step > done:
            shutil.rmtree(kept.folder)
    (training / FOLDER).mkdir(parents=True, exist_ok=True)
    store.write_json(training / FOLDER / FACTS, dict(facts))


def found(training: Path) -> tuple[list[Kept], dict[str, Any]]:
    """The series of a training in its order, and what it is of; `UserError` where there is none."""
    series = _all(training)
    try:
        facts = json_file.read_object(training / FOLDER / FACTS)
        stage, words, parts = facts["stage"], facts["words"], facts["parts"]
    except (OSError, ValueError, KeyError) as error:
        raise _absent(training, str(error)) from error
    if not series:
        raise _absent(training, f"no weights in {training / FOLDER}")
    return series, {"stage": str(stage), "words": [str(word) for word in words], "parts": parts}


def _all(training: Path) -> list[Kept]:
    each = ((_NAME.fullmatch(path.name), path) for path in (training / FOLDER).glob("step_num=*"))
    kept = (Kept(path, int(name[1]), int(name[2])) for name, path in each if name)
    return sorted(kept, key=lambda one: one.step)


def _absent(training: Path, got: str) -> UserError:
    return UserError(
        f"there is no series of weights in {training}",
        got,
        "the folder of a training that kept some",
        "python train.py train=sd2_mlperf train.keep_every=512000 ...",
    )
