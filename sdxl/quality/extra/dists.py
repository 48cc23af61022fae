"""DISTS (Ding et al. 2020): structure and texture in VGG-16's features.   quality.extra=[dists]

torchmetrics has the network, torchvision its trunk, whose published weights lie in a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdxl.quality.extra import Metric, Paired, Weights

FILE = "vgg16-397923af.pth"


def _open(weights: Path, device: Any) -> Paired:
    from torchmetrics.functional.image.dists import DISTSNetwork

    from sdxl.quality.pixels import unit
    from sdxl.quality.torchvision_weights import standing_for

    with standing_for(weights, FILE):
        network = DISTSNetwork().requires_grad_(False).to(device)

    def measure(ours: Any, theirs: Any) -> list[float]:
        pairs = zip(unit(ours, device), unit(theirs, device), strict=True)
        return [float(network(one[None], other[None])) for one, other in pairs]

    return measure


METRIC = Metric(
    "paired", False, _open, ("torchmetrics", "torchvision"),
    Weights(f"store:metrics/{FILE}", f"https://download.pytorch.org/models/{FILE}", "397923af"),
)  # fmt: skip
