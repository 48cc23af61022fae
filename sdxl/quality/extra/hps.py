"""HPS v2 (Wu et al. 2023): human preference, a fine-tuned CLIP ViT-H.   quality.extra=[hps]"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.quality.extra import Metric, Single, Weights


def _open(weights: Path, device: Any) -> Single:
    from sdxl.quality import clip

    network = clip.from_folder(weights, device)

    def measure(images: Any, captions: Sequence[str]) -> list[float]:
        fit = (network.pictures(images) * network.captions(captions)).sum(axis=1)
        return [float(each) for each in fit]

    return measure


METRIC = Metric(
    "single", True, _open, ("transformers",),
    Weights(
        "store:metrics/HPSv2-hf", "the hub's adams-story/HPSv2-hf, HPS v2 in transformers' layout"
    ),
)  # fmt: skip
