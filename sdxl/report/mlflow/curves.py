"""Curves and pictures of a training in MLflow, which may fail without harm."""

from __future__ import annotations

import sys
from typing import Any

from sdxl.config import schema
from sdxl.report.mlflow import client as tracking


class Curves:
    """One MLflow run that grows while something is trained; a resumed training goes on in it."""

    def __init__(
        self, settings: schema.Tracking, name: str, params: dict[str, Any], known: str | None
    ) -> None:
        self.settings, self.run_id, self.dead = settings, known, not settings.enabled
        self._try(self._open, name, params)

    def log(self, step: int, figures: dict[str, float]) -> None:
        """One point of each curve."""
        self._try(self._log, step, figures)

    def picture(self, step: int, name: str, image: Any) -> None:
        """A picture, uint8 (H, W, 3), under a fixed key, so that steps can be compared."""
        self._try(self._picture, step, name, image)

    def close(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        self._try(self._close, status)

    def _try(self, action: Any, *words: Any) -> None:
        if self.dead:
            return
        try:
            with tracking.opened(self.settings) as (client, experiment):
                action(client, experiment, *words)
        except Exception as error:  # a dead server must not cost a training
            self.dead = True
            print(f"warning: MLflow takes no curves: {tracking.reason(error, self.settings)}",
                  file=sys.stderr)  # fmt: skip

    def _open(self, client: Any, experiment: str, name: str, params: dict[str, Any]) -> None:
        if self.run_id:
            client.update_run(self.run_id, status="RUNNING")
            return
        run = client.create_run(experiment, run_name=name, tags={"training": name})
        self.run_id = str(run.info.run_id)
        for key, value in params.items():
            client.log_param(self.run_id, f"train.{key}", value)

    def _log(self, client: Any, _: str, step: int, figures: dict[str, float]) -> None:
        from time import time

        from mlflow.entities import Metric

        now = int(time() * 1000)
        points = [Metric(key, value, now, step) for key, value in figures.items()]
        client.log_batch(self.run_id, points)

    def _picture(self, client: Any, _: str, step: int, name: str, image: Any) -> None:
        client.log_image(self.run_id, image, key=name, step=step)

    def _close(self, client: Any, _: str, status: str) -> None:
        client.set_terminated(self.run_id, status)
