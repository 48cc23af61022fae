"""CMMD (Jayasumana et al. 2024): MMD of CLIP features, beside the reference.   quality.extra=[cmmd]

Ours on transformers' CLIP: the owner's code is in JAX. Unlike FID it means something for few
pictures, and assumes no shape of the features' distribution.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdxl.quality.extra import Metric, OfSet, Weights

SIGMA, SCALE = 10.0, 1000.0
"""Width of the Gaussian kernel, and the factor that the paper reports with."""


def _open(weights: Path, device: Any) -> OfSet:
    from sdxl.quality import clip

    return OfSet(clip.from_folder(weights, device).pictures, distance)


def distance(ours: Any, theirs: Any) -> float:
    """1000 times the squared MMD (V-statistic) of features of unit length, (N, D) and (M, D)."""
    import numpy as np

    def kernel(one: Any, other: Any) -> float:
        squared = 2 - 2 * np.asarray(one, np.float64) @ np.asarray(other, np.float64).T
        return float(np.exp(-squared / (2 * SIGMA**2)).mean())

    return SCALE * (kernel(ours, ours) + kernel(theirs, theirs) - 2 * kernel(ours, theirs))


METRIC = Metric(
    "set", False, _open, ("transformers",),
    Weights("store:metrics/clip-vit-large-patch14-336",
            "the hub's openai/clip-vit-large-patch14-336"),
)  # fmt: skip
