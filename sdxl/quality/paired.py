"""Two cells on the same prompts and noise, prompt by prompt: better, equal or worse, and how sure.

Differences of means have a bootstrap interval, since figures of pictures are seldom normal; of few
prompts it is widened as Hesterberg (2015) does, by Student's t. Right and wrong answers are told
apart by the exact test of McNemar (1947), which looks at those that changed. Each test is wrong one
time in twenty where nothing differs: several figures of one pair are several chances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from sdxl.core import records
from sdxl.core.record import Paired, Record
from sdxl.quality import per_prompt
from sdxl.quality.per_prompt import CHANGED, Figure, Kind, PerPrompt

LEAST = 6
"""Fewer prompts cannot show anything: six of six the same way is the first rare event, 1 in 32."""
RESAMPLES = 4000
LEVEL = 0.95
POWER = 0.8
"""Share of repetitions in which a difference of one resolution would be seen."""
_NORMAL = NormalDist()
SHOWN = _NORMAL.inv_cdf(0.5 + LEVEL / 2) + _NORMAL.inv_cdf(POWER)
"""Standard errors that a difference must have to be seen with that power: 2.80."""


def interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean; the value itself where there is one only.

    The same values give the same interval: the resampling is seeded.
    """
    found = np.asarray(values, np.float64)
    count = len(found)
    if count < 2 or np.ptp(found) == 0:
        return float(found.mean()), float(found.mean())
    random = np.random.default_rng(seed)
    piece = max(1, 2_000_000 // count)
    means = np.concatenate(
        [
            found[random.integers(0, count, (min(piece, RESAMPLES - start), count))].mean(axis=1)
            for start in range(0, RESAMPLES, piece)
        ]
    )
    tail = _NORMAL.cdf(-student(count - 1) * math.sqrt(count / (count - 1)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def compare(
    metric: str, ours: Sequence[float], theirs: Sequence[float], kind: Kind = per_prompt.NUMBER
) -> Paired:
    """One figure of ours beside theirs, both in the order of the prompts."""
    one, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if one.shape != other.shape or not len(one):
        raise ValueError(f"figures must come in pairs: {len(one)} and {len(other)}")
    steps = one - other
    count, mean = len(steps), float(steps.mean())
    low, high = interval(steps)
    found = Paired(
        metric, count, float(one.mean()), float(other.mean()), mean, low, high,
        kind.higher_is_better,
    )  # fmt: skip
    told = low > 0 or high < 0
    if kind.answer:
        good = 1.0 if kind.higher_is_better else 0.0
        found.right_to_wrong = int(((other == good) & (one != good)).sum())
        found.wrong_to_right = int(((other != good) & (one == good)).sum())
        found.p_value = mcnemar(found.right_to_wrong, found.wrong_to_right)
        told = found.p_value < 1 - LEVEL
    if count < LEAST:
        found.verdict, found.prompts_needed = "equal", LEAST
        return found
    spread = float(steps.std(ddof=1))
    found.resolution = SHOWN * spread / math.sqrt(count)
    if kind.answer:  # so few changes show nothing, whichever way they go
        found.resolution = max(found.resolution, LEAST / count)
    found.verdict = "equal"
    if told:
        found.verdict = "better" if (mean > 0) == kind.higher_is_better else "worse"
    elif mean:
        found.prompts_needed = needed(mean, spread, count)
    return found


def needed(mean: float, spread: float, count: int) -> int:
    """Prompts that would tell a difference of this size from 0 with `POWER`, more than there are.

    `spread`: the standard deviation of the differences between two prompts.
    """
    return max(count + 1, math.ceil((SHOWN * spread / mean) ** 2))


def mcnemar(right_to_wrong: int, wrong_to_right: int) -> float:
    """Two-sided probability of flips so one-sided, or more, if both ways were equally likely."""
    count = right_to_wrong + wrong_to_right
    least = min(right_to_wrong, wrong_to_right)
    tail = sum(math.comb(count, k) for k in range(least + 1))
    return min(1.0, 2 * tail / 2**count)


def against_reference(table: PerPrompt) -> list[Paired]:
    """Our figures beside those of the reference's pictures."""
    pairs = ((name, each.kind, each.values, each.reference) for name, each in table.figures.items())
    return [found for pair in pairs if (found := _common(*pair))]


def between(ours: PerPrompt, theirs: PerPrompt) -> list[Paired]:
    """Every figure that two cells have, over the prompts that both have.

    `answers_changed`: prompts of which any judged answer differs from the reference picture's.
    """

    def all_of(table: PerPrompt) -> Mapping[str, Figure]:
        changed = table.changed()
        return {**table.figures, **({CHANGED: changed} if changed.values else {})}

    one, other = all_of(ours), all_of(theirs)
    pairs = ((n, each.kind, each.values, other[n].values) for n, each in one.items() if n in other)
    return [found for pair in pairs if (found := _common(*pair))]


def beside(ours: Path, theirs: Path) -> tuple[list[Paired], str]:
    """Two cells by their record files: their figures in pairs, or why they are no pairs."""
    both = records.read(ours), records.read(theirs)
    if reason := unpaired(*both):
        return [], reason
    places = zip((ours, theirs), both, strict=True)
    files = [path.parent / record.quality.per_prompt.file for path, record in places]
    if gone := next((file for file in files if not file.is_file()), None):
        return [], f"{gone} is not there"
    found = between(*map(per_prompt.read, files))
    return found, "" if found else "no prompt has a figure in both"


_NOISE = ("seed", "model.noise", "model.latents", "model.height", "model.width", "dataset.name")


def unpaired(one: Record, other: Record) -> str:
    """Why two records have no pairs of pictures; empty if they may."""
    for record in (one, other):
        if not record.quality.per_prompt.file:
            return "a record has no figures by prompt: quality=fast or quality=full"
    for dotted in _NOISE:
        ours, theirs = (_setting(record.config, dotted) for record in (one, other))
        if ours != theirs:
            return f"`{dotted}` differs, {ours} and {theirs}: not the same noise"
    return ""


def sentence(found: Paired) -> str:
    """`worse by 0.012 +- 0.008 (64 prompts)`, or what could not be told and what would tell it."""
    if found.prompts < LEAST:
        return f"equal as far as {found.prompts} prompts tell, which is nothing: {LEAST} at least"
    if found.verdict != "equal":
        half = (_number(found.high) - _number(found.low)) / 2
        size = abs(_number(found.difference))
        told = f"{found.verdict} by {size:.3g} ± {half:.2g}"
        return f"{told} ({found.prompts:,} prompts{_flips(found)})"
    said = f"equal within {found.resolution:.2g}, the resolution of {found.prompts:,} prompts"
    said += _flips(found)
    if found.prompts_needed:
        said += f"; {found.prompts_needed:,} would tell {found.difference:+.2g} from none"
    return said


def _flips(found: Paired) -> str:
    if found.right_to_wrong is None:
        return ""
    ways = f"{found.right_to_wrong} right to wrong, {found.wrong_to_right} wrong to right"
    if found.metric == CHANGED:  # whether an answer is the reference's, not whether it is right
        ways = f"{found.right_to_wrong} only here, {found.wrong_to_right} only there"
    return f", {ways}, p {_number(found.p_value):.2g}"


def _common(
    metric: str, kind: Kind, ours: Mapping[Any, float], theirs: Mapping[Any, float]
) -> Paired | None:
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    return compare(metric, [ours[n] for n in shared], [theirs[n] for n in shared], kind)


def student(freedom: int) -> float:
    """97.5 % point of Student's t by its expansion in 1/freedom; within 1 % from 5 on."""
    return 1.96 + 2.372 / freedom + 2.82 / freedom**2


def _setting(config: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _number(value: float | None) -> float:
    return math.nan if value is None else value
