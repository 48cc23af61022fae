"""LPIPS (Zhang et al. 2018), AlexNet: how alike people find pictures.   quality.extra=[lpips]

torchmetrics has the network's heads, torchvision its trunk, whose published weights lie in a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdxl.quality.extra import Metric, Paired, Weights

FILE = "alexnet-owt-7be5be79.pth"


def _open(weights: Path, device: Any) -> Paired:
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    from sdxl.quality.pixels import unit
    from sdxl.quality.torchvision_weights import standing_for

    with standing_for(weights, FILE):
        network = LearnedPerceptualImagePatchSimilarity("alex", normalize=True).net.to(device)

    def measure(ours: Any, theirs: Any) -> list[float]:
        found: Any = network(unit(ours, device), unit(theirs, device), normalize=True)
        return [float(each) for each in found.flatten()]

    return measure


METRIC = Metric(
    "paired", False, _open, ("torchmetrics", "torchvision"),
    Weights(
        f"store:metrics/{FILE}", f"https://download.pytorch.org/models/{FILE}", "7be5be79"
    ),
)  # fmt: skip
