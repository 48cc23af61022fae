"""Curves and pictures of a training in MLflow, which may fail without harm."""

from __future__ import annotations

import base64
import time
from typing import Any

from sdxl.config import schema
from sdxl.core.errors import SdxlError
from sdxl.report.mlflow import client as tracking


class Curves:
    """One MLflow run that grows while something is trained; a resumed training goes on in it."""

    def __init__(
        self, settings: schema.Tracking, name: str, params: dict[str, Any], known: str | None
    ) -> None:
        self.settings, self.run_id, self.dead = settings, known, not settings.enabled
        texts = {f"train.{key}": str(value) for key, value in params.items()}
        self.run_id = self._try("open_curves", name=name, params=texts) or known

    def log(self, step: int, figures: dict[str, float]) -> None:
        """One point of each curve."""
        self._try("log_curves", step=step, figures=figures, time_ms=int(time.time() * 1000))

    def picture(self, step: int, name: str, image: Any) -> None:
        """A picture, uint8 (H, W, 3), under a fixed key, so that steps can be compared."""
        pixels = base64.b64encode(image.tobytes()).decode()
        self._try("log_picture", step=step, name=name, shape=image.shape, pixels=pixels)

    def close(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""
        self._try("close_curves", status=status)

    def _try(self, job: str, **words: Any) -> Any:
        if self.dead:
            return None
        try:
            return tracking.asked(job, self.settings, run_id=self.run_id, **words)
        except SdxlError as error:  # a dead server must not cost a training
            self.dead = True
            tracking.warn("MLflow takes no curves", error, "the training's own log goes on")
            return None


def _open(
    client: Any, experiment: str, run_id: str | None, name: str, params: dict[str, str]
) -> str:
    if run_id:
        client.update_run(run_id, status="RUNNING")
        return run_id
    run = client.create_run(experiment, run_name=name, tags={"training": name})
    for key, value in params.items():
        client.log_param(run.info.run_id, key, value)
    return str(run.info.run_id)


def _log(
    client: Any, _: str, run_id: str, step: int, figures: dict[str, float], time_ms: int
) -> None:
    from mlflow.entities import Metric

    points = [Metric(key, value, time_ms, step) for key, value in figures.items()]
    client.log_batch(run_id, points)


def _picture(
    client: Any, _: str, run_id: str, step: int, name: str, shape: list[int], pixels: str
) -> None:
    import numpy as np

    image = np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(shape)
    client.log_image(run_id, image, key=name, step=step, synchronous=True)


def _close(client: Any, _: str, run_id: str, status: str) -> None:
    client.set_terminated(run_id, status)


JOBS = {
    "open_curves": _open,
    "log_curves": _log,
    "log_picture": _picture,
    "close_curves": _close,
}
