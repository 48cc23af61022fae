"""The pictures of a run: every one is checked, the wanted ones become files."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np

from sdxl.core.store import disk_error
from sdxl.core.types import Generator, Prompt, Sample
from sdxl.model import images

_QUEUED = 64
"""Pictures waiting to be written at most, so that memory stays flat in accuracy mode."""


class Keeper:
    """Checks each picture; keeps those of the first `keep` prompts, or all in accuracy mode.

    In performance mode pictures wait in memory until the test is over (PNG costs CPU time); in
    accuracy mode they are written while the test runs.
    """

    def __init__(self, folder: Path, prompts: list[Prompt], keep: int, accuracy: bool) -> None:
        self.folder, self.prompts, self.accuracy = folder, prompts, accuracy
        self.keep = len(prompts) if accuracy else min(keep, len(prompts))
        self._held: dict[int, np.ndarray] = {}
        self._files: dict[int, Future[dict[str, Any]]] = {}
        self._failed: BaseException | None = None  # the first that could not be written
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="png")
        self._room = BoundedSemaphore(_QUEUED)

    def take(self, batch: list[Sample], pictures: np.ndarray) -> None:
        """Check a batch and keep what is wanted; raises `StageError` for a constant picture.

        Also raises what went wrong with an earlier picture's file: no later one is worth drawing.
        """
        for sample, picture in zip(batch, pictures, strict=True):
            coarse = picture[::16, ::16]
            if coarse.min() == coarse.max():
                images.check(picture, sample.index)
            self._want(sample.index, picture, measured=True)

    def finish(self, generator: Generator) -> list[dict[str, Any]]:
        """Draw wanted pictures that LoadGen never asked for, write all; one entry per picture."""
        for index in range(self.keep):
            if index not in self._held and index not in self._files:
                self._want(index, generator.generate([index])[0], measured=False)
        for index, picture in self._held.items():
            self._write(index, picture, measured=True)
        self._pool.shutdown()
        return [self._files[index].result() for index in sorted(self._files)]

    def _want(self, index: int, picture: np.ndarray, measured: bool) -> None:
        if index >= self.keep or index in self._held or index in self._files:
            return
        if self.accuracy or not measured:
            self._write(index, picture, measured)
        else:
            self._held[index] = picture.copy()

    def _write(self, index: int, picture: np.ndarray, measured: bool) -> None:
        if self._failed:
            raise self._failed
        self._room.acquire()
        copied = picture if index in self._held else picture.copy()
        job = self._pool.submit(self._save, index, copied, measured)
        job.add_done_callback(self._written)
        self._files[index] = job

    def _written(self, job: Future[dict[str, Any]]) -> None:
        self._failed = self._failed or job.exception()
        self._room.release()

    def _save(self, index: int, picture: np.ndarray, measured: bool) -> dict[str, Any]:
        path = self.folder / f"{index:06d}.png"
        try:
            digest = images.save(picture, path)
        except OSError as error:
            raise disk_error(error, self.folder, "hydra.run.dir=FOLDER") from error
        prompt = self.prompts[index]
        return {
            "index": index,
            "file": f"{self.folder.name}/{path.name}",
            "sha256": digest,
            "caption": prompt.text,
            "row": prompt.row,
            "source_id": prompt.source_id,
            "measured": measured,
        }
