"""ImageReward (Xu et al. 2023), by its own package.   python run.py quality.extra=[image_reward]"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.quality.extra import Metric, Single, Weights

FILES = ("ImageReward.pt", "med_config.json")


def _open(weights: Path, device: Any) -> Single:
    import ImageReward
    from PIL import Image

    from sdxl.quality.torchvision_weights import only_tensors

    network_file, config_file = (weights / name for name in FILES)
    only_tensors(network_file)
    network = ImageReward.load(str(network_file), device=str(device), med_config=str(config_file))

    def measure(images: Any, captions: Sequence[str]) -> list[float]:
        pairs = zip(images, captions, strict=True)
        return [float(network.score(text, Image.fromarray(image))) for image, text in pairs]

    return measure


METRIC = Metric(
    "single", True, _open, ("ImageReward",),
    Weights("store:metrics/ImageReward", f"{' and '.join(FILES)} of the hub's THUDM/ImageReward"),
    official=True,
)  # fmt: skip
