"""The Frechet distance between two sets of features, and the statistics that it needs of each."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdxl.core.errors import UserError


@dataclass(frozen=True)
class Statistics:
    """Mean (D,) and covariance (D, D) of features, float64."""

    mu: np.ndarray
    sigma: np.ndarray


class Moments:
    """Mean and covariance of features as they come, float64; memory does not grow with them.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1979), which never
    subtracts two large sums. Each takes effect in one assignment: an interrupt leaves the state
    before it or after it, and either can be kept.
    """

    def __init__(self, width: int) -> None:
        self._state = 0, np.zeros(width), np.zeros((width, width))

    @property
    def count(self) -> int:
        """How many features there have been."""
        return self._state[0]

    def add(self, features: np.ndarray) -> None:
        """Features (B, D) of a batch."""
        batch = np.asarray(features, np.float64)
        if not len(batch):
            return
        own = batch.mean(axis=0)
        centred = batch - own
        self.merge(len(batch), own, centred.T @ centred)

    def merge(self, more: int, own: np.ndarray, scatter: np.ndarray) -> None:
        """What another has of `more` features of its own: its `state`."""
        if not more:
            return
        count, mean, before = self._state
        total, off = count + more, own - mean
        scatter = before + scatter
        scatter += np.outer(off * (count * more / total), off)
        self._state = total, mean + off * (more / total), scatter

    def state(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Count, mean and scatter: what `restore` needs to go on."""
        return self._state

    def restore(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        """Go on from a `state`."""
        self._state = count, mean, scatter

    def statistics(self) -> Statistics:
        """As `numpy.mean` and `numpy.cov(rowvar=False)`; raises `ValueError` below two features."""
        count, mean, scatter = self._state
        if count < 2:
            raise ValueError(f"a covariance needs two features, not {count}")
        return Statistics(mean, scatter / (count - 1))


def distance(ours: Statistics, reference: Statistics) -> float:
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    With S1 = A A' and S2 = B B' the trace of the root is the sum of the singular values of A' B.
    Unlike a root of the product S1 S2 it is exact for the singular covariances of few images, and
    never complex.
    """
    from scipy.linalg import svdvals

    off = ours.mu - reference.mu
    overlap = svdvals(_factor(ours.sigma).T @ _factor(reference.sigma)).sum()
    traces = np.trace(ours.sigma) + np.trace(reference.sigma)
    return float(off @ off + traces - 2 * overlap)


def _factor(sigma: np.ndarray) -> np.ndarray:
    """A (D, rank) with sigma = A A'; directions without variance are left out."""
    from scipy.linalg import eigh

    values, vectors = eigh(sigma, driver="evd")
    real = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return np.asarray(vectors[:, real] * np.sqrt(values[real]))


UNREADABLE = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)
"""What numpy raises for files that are no .npz, or half of one."""


def read(path: Path, width: int) -> Statistics:
    """Reference statistics from an .npz with `mu` and `sigma`, as pytorch-fid writes them."""
    fix = "python -m sdxl statistics IMAGE_FOLDER OUT.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            mu, sigma = (np.asarray(stored[name], np.float64) for name in ("mu", "sigma"))
    except UNREADABLE as error:
        raise UserError(
            f"{path} holds no statistics", str(error), "an .npz with mu and sigma", fix
        ) from error
    if mu.shape != (width,) or sigma.shape != (width, width):
        raise UserError(
            f"{path} is of other features", f"mu {mu.shape}, sigma {sigma.shape}", width, fix
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"{path} has NaN or Inf", fix=fix)
    return Statistics(mu, sigma)


def write(path: Path, found: Statistics) -> None:
    """Write `mu` and `sigma`, whole or not at all."""
    temporary = path.with_name(f".{path.name}.part.npz")
    np.savez(temporary, mu=found.mu, sigma=found.sigma)
    temporary.replace(path)
