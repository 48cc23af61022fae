"""FID and CLIP score as MLPerf defines them, on whatever pictures the run makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from sdxl.config import schema
from sdxl.core.errors import Problem

if TYPE_CHECKING:
    from sdxl.core.types import Prompt, Scorer

DOWNLOAD = "python -m sdxl download metrics"


@dataclass
class Config(schema.Quality):
    """Where the metric networks are; `python -m sdxl download metrics` puts the published ones."""

    inception: str = "store:metrics/pt_inception-2015-12-05-6726825d.pth"
    statistics: Optional[str] = "store:metrics/val2014.npz"  # FID's reference; null: no FID
    clip: str = "store:metrics/ViT-B-32.pt"
    vocabulary: str = "store:metrics/bpe_simple_vocab_16e6.txt.gz"  # or a tokenizer's folder


def open(config: schema.Config, prompts: list[Prompt]) -> Scorer:
    """The scorer of a run, its networks loaded."""
    from sdxl.quality.full_scorer import Official

    return Official(config, prompts)


def missing(config: schema.Config) -> list[Problem]:
    """Files that are not there, and scipy, which FID needs."""
    assert isinstance(config.quality, Config)
    from sdxl.core import store

    found = []
    for name, value in files(config.quality).items():
        if not store.resolve(value).exists():
            what = f"quality={config.quality.name} needs `quality.{name}`"
            got = f"{store.resolve(value)} is not there"
            found.append(Problem(what, got, f"the file, or quality.{name}=FILE", DOWNLOAD))
    return [*found, *(without_scipy("FID") if config.quality.statistics else [])]


def without_scipy(metric: str) -> list[Problem]:
    """What a metric with a Frechet distance lacks."""
    import importlib.util

    if importlib.util.find_spec("scipy"):
        return []
    install = "python -m pip install -c constraints.txt -e '.[quality]'"
    return [Problem(f"{metric} needs scipy", "no module `scipy`", "the tested set", install)]


def files(quality: Any) -> dict[str, str]:
    """Paths by setting, without those that are null."""
    names = ["clip", "vocabulary"]
    names += ["inception", "statistics"] if quality.statistics else []
    return {name: getattr(quality, name) for name in names}
