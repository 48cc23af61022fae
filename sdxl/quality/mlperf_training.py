"""FID and CLIP score as MLPerf's training benchmark defines them: ViT-H/14, 30,000 captions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdxl.config import schema
from sdxl.config.plugins import QualityOption
from sdxl.core import store
from sdxl.core.errors import Problem
from sdxl.quality import checks, extra, settings
from sdxl.quality.needs import DOWNLOAD, TRAINING, files, without_scipy

if TYPE_CHECKING:
    from sdxl.core.types import Prompt, Scorer


def _open(config: schema.Config, prompts: list[Prompt]) -> Scorer:
    """The scorer of a run, its networks loaded."""
    from sdxl.quality.training_scorer import Training

    return Training(config, prompts)


def problems_of(config: schema.Config) -> list[Problem]:
    """The benchmark has both scores."""
    found = checks.problems_of(config)
    if isinstance(config.quality, settings.MlperfTraining) and config.quality.statistics is None:
        found.append(
            Problem(
                "quality=mlperf_training needs FID's reference statistics",
                "quality.statistics=null",
                "val2014_30k_stats.npz",
                f"quality.statistics={settings.MlperfTraining.statistics}",
            )
        )
    return found


def missing(config: schema.Config) -> list[Problem]:
    """Files that are not there, each with where it comes from, and scipy, which FID needs."""
    assert isinstance(config.quality, settings.MlperfTraining)
    found = []
    for name, value in files(config.quality).items():
        if not store.resolve(value).is_file():
            what = f"quality=mlperf_training needs `quality.{name}`"
            got = f"{store.resolve(value)} is not there"
            fix = TRAINING.get(name, DOWNLOAD)
            found.append(Problem(what, got, f"the file, or quality.{name}=FILE", fix))
    return found + without_scipy("FID") + extra.missing(config.quality)


OPTION = QualityOption(settings.MlperfTraining, _open, problems_of, missing)
