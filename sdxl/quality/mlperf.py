"""MLPerf's accuracy run: FID and CLIP score with the published files and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdxl.config import schema
from sdxl.config.plugins import QualityOption
from sdxl.config.schema import Mode
from sdxl.core.errors import Problem
from sdxl.quality import checks, full, settings

if TYPE_CHECKING:
    from sdxl.core.types import Prompt, Scorer


def _open(config: schema.Config, prompts: list[Prompt]) -> Scorer:
    """The scorer; raises `UserError` if a file is not the published one."""
    from sdxl.quality.full_scorer import Official

    return Official(config, prompts, published_only=True)


def problems_of(config: schema.Config) -> list[Problem]:
    """Accuracy is measured in accuracy mode, and needs both metrics."""
    found = checks.problems_of(config)
    if config.mode is not Mode.accuracy:
        found.append(
            Problem(
                "quality=mlperf scores accuracy mode, where every prompt comes once",
                f"mode={config.mode.value}",
                "mode=accuracy, or quality=full",
                "mode=accuracy",
            )
        )
    if isinstance(config.quality, settings.Mlperf) and config.quality.statistics is None:
        found.append(
            Problem(
                "quality=mlperf needs FID's reference statistics",
                "quality.statistics=null",
                "val2014.npz, or quality=full",
                f"quality.statistics={settings.Full.statistics}",
            )
        )
    return found


OPTION = QualityOption(settings.Mlperf, _open, problems_of, full.missing)
