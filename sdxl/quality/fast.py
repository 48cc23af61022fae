"""Scores that need no download: our own networks on scenes, an independent judge on anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdxl.config import schema
from sdxl.config.plugins import QualityOption
from sdxl.core import store
from sdxl.core.errors import Problem
from sdxl.core.paths import JUDGE
from sdxl.quality import checks, extra, settings
from sdxl.quality.needs import BUNDLE, INSTALL, SCENES, installed, without_scipy

if TYPE_CHECKING:
    import numpy as np

    from sdxl.core.types import Prompt, Scorer


def _open(config: schema.Config, prompts: list[Prompt]) -> Scorer:
    """The scorer of a run, its networks loaded."""
    from sdxl.quality.fast_scorer import Quick

    return Quick(config, prompts)


def beside_baseline(
    config: schema.Config, theirs: Sequence[np.ndarray], ours: Sequence[np.ndarray]
) -> dict[str, float]:
    """Further distances to the unquantized baseline's pictures (uint8), averages over the pairs.

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
    assert isinstance(config.quality, settings.Fast)
    scenes, reference = config.dataset.name == SCENES, settings.real_pictures(config.quality)
    found = without_scipy("quality=fast") if scenes or reference else []
    if scenes and not JUDGE.is_dir():
        what = "quality=fast needs the networks that judge scenes"
        fix = "python train.py -m train=vae,clip,judge && " + BUNDLE
        got = f"{JUDGE} is not there"
        found.append(Problem(what, got, "trained networks in the package", fix))
    if reference and not store.resolve(reference).is_dir():
        what, got = "`quality.reference` is not there", str(store.resolve(reference))
        found.append(
            Problem(what, got, "a folder of real pictures, or auto", "quality.reference=FOLDER")
        )
    return found + extra.missing(config.quality)


def problems_of(config: schema.Config) -> list[Problem]:
    """A reference that nothing could be compared by."""
    found = checks.problems_of(config)
    if settings.real_pictures(config.quality) and not installed():
        found.append(Problem("`quality.reference` would be ignored: no EfficientNet", fix=INSTALL))
    return found


OPTION = QualityOption(settings.Fast, _open, problems_of, missing, beside_baseline)
