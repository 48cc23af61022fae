"""A training's MLLOG with the scores of its series, which were taken after the clock.

Each pair of scores stands where its block ends, at that time; `run_stop` has the time of the first
checkpoint that passed, and of what was scored behind it only the scores follow. Evaluations of the
training itself, of other pictures, are left out.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlperf_logging.mllog import constants as key
from mlperf_logging.mllog.mllog import MLLogger

from sdxl.core import json_file
from sdxl.core.paths import PACKAGE
from sdxl.training import mllog

_LEFT_OUT = (key.RUN_STOP, key.EVAL_START, key.EVAL_STOP, key.EVAL_ACCURACY)
_NAMES = ("FID", "CLIP")


def write(
    training: Path, out: Path, scores: Mapping[int, Mapping[str, float]], passed: int | None,
    eval_samples: int,
) -> str | None:  # fmt: skip
    """`out`, of a training's log and scores by samples seen; returns why it could not be written.

    passed: samples of the first checkpoint that passed.
    """
    if not training.is_file():
        return f"there is no {training}"
    told = [read for text in training.read_text().splitlines() if (read := mllog.read(text))]
    ends = {mllog.samples_of(line): line["time_ms"] for _, line in told if _ends_block(line)}
    if lost := [samples for samples in scores if samples not in ends]:
        return f"{training} has no block that ends after {lost[0]:,} samples"
    log, last = _Lines(), told[-1][1]["time_ms"]
    over = False
    for text, line in told:
        samples, moment = mllog.samples_of(line), line["time_ms"]
        if line["key"] == key.EVAL_SAMPLES:
            log.say("event", key.EVAL_SAMPLES, eval_samples, moment)
        elif line["key"] not in _LEFT_OUT and not over:
            log.stream.write(f"{text}\n")
        if not _ends_block(line) or samples not in scores:
            continue
        for name in _NAMES:
            place = {key.SAMPLES_COUNT: samples, "metric": name}
            log.say("event", key.EVAL_ACCURACY, scores[samples][name], moment, place)
        if samples == passed:
            over = True
            log.say("end", key.RUN_STOP, None, moment, {key.STATUS: key.SUCCESS})
    if passed is None:
        log.say("end", key.RUN_STOP, None, last, {key.STATUS: key.ABORTED})
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}")
    beside.write_text(log.stream.getvalue())
    beside.replace(out)
    return None


def minutes(log: Path) -> float:
    """From `run_start` to `run_stop`."""
    texts = log.read_text().splitlines()
    lines = [json_file.parse(text.removeprefix(mllog.MARK)) for text in texts]
    times = {line["key"]: line["time_ms"] for line in lines}
    return float(times[key.RUN_STOP] - times[key.RUN_START]) / 60e3


def _ends_block(line: Mapping[str, Any]) -> bool:
    return bool(line["key"] == key.BLOCK_STOP)


class _Lines:
    """Lines of MLLOG in memory."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        lines = logging.Logger("series", logging.INFO)
        lines.addHandler(logging.StreamHandler(self.stream))
        self._mllog = MLLogger(lines, root_dir=re.escape(str(PACKAGE.parent)))

    def say(self, kind: str, name: str, value: Any, time_ms: int, place: Any = None) -> None:
        """A line of that moment."""
        getattr(self._mllog, kind)(name, value, place, time_ms=time_ms)
