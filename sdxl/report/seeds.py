"""Settings measured with several seeds: means, intervals, and what cannot be told apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from sdxl.quality.paired import student
from sdxl.report.cell import Cell, other_scores
from sdxl.report.values import flatten

_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % points of Student's t for 1 to 9 degrees of freedom."""
_NOT_WORK = ("seed", "tracking.", "plan", "build", "rerun", "quality.keep_images")


def _student(freedom: int) -> float:
    """97.5 % point of Student's t; beyond the table by its expansion in 1/freedom."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    return student(freedom)


@dataclass(frozen=True)
class Spread:
    """One figure of one setting, by seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return mean(self.values)

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval of the mean, by Student's t."""
        count = len(self.values)
        if count < 2:
            return float("inf")
        return _student(count - 1) * stdev(self.values) / count**0.5

    @property
    def range(self) -> float:
        """How far two of its seeds lie apart at most."""
        return max(self.values) - min(self.values)

    def equals(self, other: Spread) -> bool:
        """Do the two settings differ by less than two seeds of either one do?"""
        return abs(self.mean - other.mean) <= max(self.range, other.range)

    def minus(self, other: Spread) -> Spread:
        """The differences seed by seed: what is the same in both settings, captions and noise
        first of all, falls out."""
        pairs = zip(self.values, other.values, strict=True)
        return Spread(tuple(one - two for one, two in pairs))

    @property
    def apart(self) -> bool:
        """Does its 95 % interval leave zero out? Asked of the differences that `minus` makes."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.half:.2g}" if len(self.values) > 1 else f"{self.mean:.4g}"


@dataclass
class Setting:
    """Cells that differ in nothing but the seed."""

    label: str
    cells: list[Cell]
    scores: dict[str, Spread]


def settings(cells: Sequence[Cell]) -> list[Setting]:
    """The settings that were measured with two seeds or more, in the order of their cells."""
    same: dict[str, list[Cell]] = {}
    for cell in cells:
        flat = flatten(cell.record.config)
        kept = {k: v for k, v in sorted(flat.items()) if not k.startswith(_NOT_WORK)}
        same.setdefault(json.dumps(kept, default=str), []).append(cell)
    found = []
    for group in same.values():
        by_seed = {str(cell.setting("seed")): cell for cell in group}
        if len(by_seed) < 2:
            continue
        scores = [other_scores(cell) for cell in by_seed.values()]
        shared = sorted(set.intersection(*map(set, scores)))
        spreads = {name: Spread(tuple(each[name] for each in scores)) for name in shared}
        label = group[0].label.replace(f" seed {group[0].setting('seed')}", "")
        found.append(Setting(label, list(by_seed.values()), spreads))
    return found


def table(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """(head, rows): each score's mean, its 95 % interval, and the settings that equal it.

    `=2` behind a figure: it differs from that of row 2 by less than two seeds do.
    """
    found = settings(cells)
    names = sorted({name for each in found for name in each.scores})
    rows = []
    for number, each in enumerate(found, 1):
        row = [str(number), each.label, str(len(each.cells))]
        for name in names:
            own = each.scores.get(name)
            others = [(i, s.scores.get(name)) for i, s in enumerate(found, 1) if s is not each]
            equal = [str(i) for i, other in others if own and other and own.equals(other)]
            row.append(f"{own}{' =' + ','.join(equal) if equal else ''}" if own else "-")
        rows.append(row)
    return ["row", "setting", "seeds", *names], rows


NOTE = (
    "Over seeds: mean and 95 % interval. =N: it differs from row N by less than two seeds of one "
    "setting do, so the two are equal as far as these pictures tell."
)
