"""Scores of some of a checkpoint's pictures, which add up with those of the others."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from sdxl.quality import frechet

PATTERN = "part-*.npz"


class Examiner(Protocol):
    """Networks that look at pictures, and what the features of real ones are like."""

    reference: frechet.Statistics | None

    def examined(
        self, indices: Sequence[int], images: np.ndarray, /
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features (B, D) for the Frechet distance, and the cosine (B,) of caption and picture."""
        ...


@dataclass
class Tally:
    """Moments of the features of some pictures, and their cosines by the prompt's number."""

    moments: frechet.Moments
    cosines: dict[int, float] = field(default_factory=dict)

    @classmethod
    def empty(cls, width: int) -> Self:
        """Of no pictures, with features so wide."""
        return cls(frechet.Moments(width))

    def add(self, numbers: Sequence[int], features: np.ndarray, cosines: np.ndarray) -> None:
        """Pictures of these prompts."""
        self.moments.add(features)
        self.cosines |= dict(zip(numbers, map(float, cosines), strict=True))

    def scores(self, reference: frechet.Statistics) -> dict[str, float]:
        """By MLPerf's names; the order in which pictures came moves FID's last digits only."""
        total = math.fsum(self.cosines.values())
        distance = frechet.distance(self.moments.statistics(), reference)
        return {"FID": distance, "CLIP": total / len(self.cosines)}

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        beside = path.with_name(f".{path.name}.{os.getpid()}.npz")
        count, mean, scatter = self.moments.state()
        numbers, cosines = [*self.cosines], [*self.cosines.values()]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            np.savez(
                beside, count=count, mean=mean, scatter=scatter,
                numbers=np.array(numbers, np.int64), cosines=np.array(cosines, np.float64),
            )  # fmt: skip
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def read(folder: Path, width: int) -> Tally:
    """All parts in a folder as one; those that cannot be read, or repeat a prompt, are drawn again.

    In the order of their names, so that every process has the same.
    """
    whole = Tally.empty(width)
    for path in sorted(folder.glob(PATTERN)):
        try:
            with np.load(path, allow_pickle=False) as stored:
                own = dict(zip(stored["numbers"].tolist(), stored["cosines"].tolist(), strict=True))
                count, mean, scatter = int(stored["count"]), stored["mean"], stored["scatter"]
        except frechet.UNREADABLE:
            continue
        if count == len(own) and mean.shape == (width,) and not own.keys() & whole.cosines.keys():
            whole.moments.merge(count, mean, scatter)
            whole.cosines |= own
    return whole


def share(count: int, done: Iterable[int], rank: int, world: int) -> list[int]:
    """The prompts that process `rank` of `world` draws: every so many-th of those not done."""
    known = set(done)
    return [number for number in range(count) if number not in known][rank::world]
