"""MLPerf training's log lines, `:::MLLOG {...}`, with the keys of its closed division.

Format and keys: github.com/mlcommons/logging, mlperf_logging/mllog/constants.py.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from sdxl.config.schema_train import Training


class Log:
    """One file of log lines; a resumed training adds to it."""

    def __init__(self, file: Path, again: bool) -> None:
        self.file = file
        if not again:
            file.unlink(missing_ok=True)

    def begin(self, settings: Training, seed: int, rows: int, again: bool) -> None:
        """What is trained, and how; `rows`: of the training set."""
        if not again:
            self._line("INTERVAL_START", "init_start", None)
        hyper = {
            "submission_benchmark": f"scenes_{settings.name}",
            "seed": seed,
            "global_batch_size": settings.batch,
            "opt_name": "adamw",
            "opt_adamw_beta_1": 0.9,
            "opt_adamw_beta_2": 0.99,
            "opt_adamw_weight_decay": settings.weight_decay,
            "opt_base_learning_rate": settings.lr,
            "opt_learning_rate_warmup_steps": settings.warmup_steps,
            "opt_gradient_clip_norm": settings.clip_norm,
            "train_samples": rows,
        }
        for key, value in hyper.items():
            self._line("POINT_IN_TIME", key, value)
        if not again:
            self._line("INTERVAL_END", "init_stop", None)
            self._line("INTERVAL_START", "run_start", None)

    def evaluation(self, samples: int, figures: dict[str, float]) -> None:
        """The figures of an evaluation."""
        place = {"samples_count": samples}
        self._line("INTERVAL_START", "eval_start", None, place)
        for name, value in figures.items():
            self._line("POINT_IN_TIME", "eval_accuracy", value, {**place, "metric": name})
        self._line("INTERVAL_END", "eval_stop", None, place)

    def end(self, status: str) -> None:
        """The end of this process's part."""
        word = "success" if status == "FINISHED" else "aborted"
        self._line("INTERVAL_END", "run_stop", None, {"status": word})

    def _line(
        self, event: str, key: str, value: Any, metadata: dict[str, Any] | None = None
    ) -> None:
        line = {
            "namespace": "",
            "time_ms": int(time.time() * 1000),
            "event_type": event,
            "key": key,
            "value": value,
            "metadata": metadata or {},
        }
        with self.file.open("a") as stream:
            stream.write(f":::MLLOG {json.dumps(line)}\n")
