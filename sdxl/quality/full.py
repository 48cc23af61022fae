"""FID and CLIP score as MLPerf defines them, on whatever pictures the run makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdxl.config import schema
from sdxl.config.plugins import QualityOption
from sdxl.core import store
from sdxl.core.errors import Problem
from sdxl.quality import checks, extra, settings
from sdxl.quality.needs import DOWNLOAD, files, without_scipy

if TYPE_CHECKING:
    from sdxl.core.types import Prompt, Scorer


def _open(config: schema.Config, prompts: list[Prompt]) -> Scorer:
    """The scorer of a run, its networks loaded."""
    from sdxl.quality.full_scorer import Official

    return Official(config, prompts)


def missing(config: schema.Config) -> list[Problem]:
    """Files that are not there, and scipy, which FID needs."""
    assert isinstance(config.quality, settings.Full)

    found = []
    for name, value in files(config.quality).items():
        if not store.resolve(value).exists():
            what = f"quality={config.quality.name} needs `quality.{name}`"
            got = f"{store.resolve(value)} is not there"
            found.append(Problem(what, got, f"the file, or quality.{name}=FILE", DOWNLOAD))
    found += without_scipy("FID") if config.quality.statistics else []
    return found + extra.missing(config.quality)


OPTION = QualityOption(settings.Full, _open, checks.problems_of, missing)
