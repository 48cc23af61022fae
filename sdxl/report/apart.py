"""Can two cells be told apart, prompt by prompt or by their speed?"""

from __future__ import annotations

import math
from statistics import mean, stdev

from sdxl.report import by_prompt
from sdxl.report.cell import Cell

CEILING_DB = 120.0
"""Stands for identical pictures in sums: above what any two 8-bit pictures that differ can have."""


def alike(one: Cell, other: Cell) -> bool:
    """Is every figure by prompt equal within its resolution?

    Of records without them: is the mean PSNR gap of the pictures inside twice its standard error?
    """
    if by_prompt.has(one) and by_prompt.has(other):
        found, _ = by_prompt.pairs(one, other)
        return bool(found) and all(each.verdict == "equal" for each in found)
    if not one.pairs or len(one.pairs) != len(other.pairs):
        return False
    gaps = [min(a, CEILING_DB) - min(b, CEILING_DB) for a, b in zip(one.pairs, other.pairs,
            strict=True)]  # fmt: skip
    if len(gaps) < 2:
        return False
    return abs(mean(gaps)) <= 2 * stdev(gaps) / math.sqrt(len(gaps))


def alike_in_speed(one: Cell, other: Cell) -> bool:
    """Do the repeated measurements of two cells overlap? Unknown, hence False, without repeats."""
    if len(one.repeats) < 2 or len(other.repeats) < 2:
        return False
    return min(one.repeats) <= max(other.repeats) and min(other.repeats) <= max(one.repeats)
