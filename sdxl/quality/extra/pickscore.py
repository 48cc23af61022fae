"""PickScore (Kirstain et al. 2023): which picture people would pick.   quality.extra=[pickscore]"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.quality.extra import Metric, Single, Weights


def _open(weights: Path, device: Any) -> Single:
    from sdxl.quality import clip

    network = clip.from_folder(weights, device)
    scale = float(network.network.logit_scale.exp())

    def measure(images: Any, captions: Sequence[str]) -> list[float]:
        fit = (network.pictures(images) * network.captions(captions)).sum(axis=1)
        return [scale * float(each) for each in fit]

    return measure


METRIC = Metric(
    "single", True, _open, ("transformers",),
    Weights(
        "store:metrics/PickScore_v1",
        "the hub's yuvalkirstain/PickScore_v1, with vocab.json and merges.txt of CLIP beside it",
    ),
)  # fmt: skip
