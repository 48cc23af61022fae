"""MLPerf training's log lines, `:::MLLOG {...}`, with the keys of its closed division."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from mlperf_logging.mllog import constants as key
from mlperf_logging.mllog.mllog import MLLogger

from sdxl.config.schema.train import Training
from sdxl.core.paths import PACKAGE
from sdxl.training.recipe import highest_rate


class Log:
    """One file of log lines; a resumed training adds to it."""

    def __init__(self, file: Path, again: bool) -> None:
        # Of its own, not logging's registry: nothing of it is printed, and it ends with the run.
        lines = logging.Logger("mllog", logging.INFO)
        self._handler = logging.FileHandler(file, "a" if again else "w", delay=True)
        lines.addHandler(self._handler)
        self._mllog = MLLogger(lines, root_dir=re.escape(str(PACKAGE.parent)))

    def begin(self, settings: Training, seed: int, rows: int, again: bool) -> None:
        """What is trained, and how; `rows`: of the training set."""
        if not again:
            self._mllog.start(key.INIT_START)
        hyper = {
            key.SUBMISSION_BENCHMARK: f"scenes_{settings.name}",
            key.SEED: seed,
            key.GLOBAL_BATCH_SIZE: settings.batch,
            key.OPT_NAME: key.ADAMW,
            key.OPT_ADAMW_BETA_1: settings.beta1,
            key.OPT_ADAMW_BETA_2: settings.beta2,
            key.OPT_ADAMW_EPSILON: settings.epsilon,
            key.OPT_ADAMW_WEIGHT_DECAY: settings.weight_decay,
            key.OPT_BASE_LR: highest_rate(settings),
            key.OPT_LR_WARMUP_STEPS: settings.warmup_steps,
            key.GRADIENT_ACCUMULATION_STEPS: settings.accumulate,
            key.OPT_GRADIENT_CLIP_NORM: settings.clip_norm or 0.0,
            key.TRAIN_SAMPLES: rows,
        }
        for name, value in hyper.items():
            self._mllog.event(name, value)
        if not again:
            self._mllog.end(key.INIT_STOP)
            self._mllog.start(key.RUN_START)

    def evaluation(self, samples: int, figures: dict[str, float]) -> None:
        """The figures of an evaluation."""
        place: dict[str, Any] = {key.SAMPLES_COUNT: samples}
        self._mllog.start(key.EVAL_START, metadata=place)
        for name, value in figures.items():
            self._mllog.event(key.EVAL_ACCURACY, value, {**place, "metric": name})
        self._mllog.end(key.EVAL_STOP, metadata=place)

    def end(self, status: str) -> None:
        """The end of this process's part."""
        word = key.SUCCESS if status == "FINISHED" else key.ABORTED
        self._mllog.end(key.RUN_STOP, metadata={key.STATUS: word})
        self._handler.close()
