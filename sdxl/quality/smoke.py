"""A published gate for 100 prompts: minutes in place of MLPerf's 5,000 pictures, and not MLPerf's.

Bounds: tenstorrent/tt-metal, models/experimental/stable_diffusion_xl_base/targets/targets.json
(pull request 39632), SDXL base with MLPerf's definitions of both scores. FID of so few pictures is
about 183, so its bounds hold for 100 only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdxl.config import schema
from sdxl.config.plugins import QualityOption
from sdxl.config.schema import Config, Mode
from sdxl.core.errors import Problem
from sdxl.quality import checks, full, settings

if TYPE_CHECKING:
    from sdxl.core.types import Prompt, Scorer

PROMPTS = 100
BOUNDS = {"clip_score": (31.705, 32.095), "fid": (182.79, 183.95)}
REASON = f"a smoke gate of {PROMPTS} prompts (quality=smoke), not MLPerf's verdict"


def _open(config: Config, prompts: list[Prompt]) -> Scorer:
    """The scorer; raises `UserError` if a file is not the published one."""
    from sdxl.quality.full_scorer import Official

    return Gated(Official(config, prompts, published_only=True))


class Gated:
    """Another scorer's scores, beside the bounds."""

    def __init__(self, scorer: Any) -> None:
        self.kinds, self.add, self.look = scorer.kinds, scorer.add, scorer.look
        self._scores = scorer.result

    def result(self) -> dict[str, Any]:
        """The scores with their gates, which are not MLPerf's."""
        found = self._scores()
        gates = rows(found["metrics"])
        return {**found, "gates": gates, "comparable": False, "comparable_reason": REASON}


def rows(metrics: dict[str, float]) -> list[dict[str, Any]]:
    """One gate for each score, as a record's `GateRow`."""
    found = []
    for name, (low, high) in BOUNDS.items():
        score = metrics[name]
        found.append(
            {
                "gate": f"{name}, {PROMPTS} prompts",
                "required": f"{low:g} to {high:g}",
                "measured": f"{score:.3f}",
                "margin": f"{min(score - low, high - score):+.3f}",
                "pass": low <= score <= high,
                "scope": "smoke",
            }
        )
    return found


def problems_of(config: Config) -> list[Problem]:
    """The bounds are of one model and one setting: anything else would fail, or pass by chance."""
    assert isinstance(config.quality, settings.Smoke)
    wanted = {
        "mode": (config.mode.value, Mode.accuracy.value),
        "model": (config.model.name, "sdxl"),
        "dataset": (config.dataset.name, "coco"),
        "dataset.shuffle": (config.dataset.shuffle, False),
        "limit": (config.limit, PROMPTS),
        "rules": (config.rules.value, schema.Rules.closed.value),
        "seed": (config.seed, 0),
    }
    found = [
        Problem(f"quality=smoke has bounds for {key}={right} only", str(got), str(right),
                f"{key}={str(right).lower() if isinstance(right, bool) else right}")
        for key, (got, right) in wanted.items()
        if got != right
    ]  # fmt: skip
    if config.quality.statistics is None:
        what = "quality=smoke needs FID's reference statistics"
        fix = f"quality.statistics={settings.Full.statistics}"
        found.append(Problem(what, "quality.statistics=null", "val2014.npz", fix))
    return found + checks.problems_of(config)


OPTION = QualityOption(settings.Smoke, _open, problems_of, full.missing)
