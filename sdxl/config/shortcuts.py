"""What each UNet call of a picture computes, as a shortcut has it. Imports no framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from sdxl.config import schema


class Cross(str, Enum):
    """Cross-attention of a call: computed, computed and kept, or as it was kept."""

    computed = "computed"
    recorded = "recorded"
    replayed = "replayed"


@dataclass(frozen=True)
class Step:
    """One UNet call.

    guided: two rows a picture, else the conditional one alone; deep: all of the UNet, else what
    lies above a kept feature; keeps: a later call reads its feature; merged: like tokens are one.
    """

    guided: bool
    deep: bool = True
    keeps: bool = False
    cross: Cross = Cross.computed
    merged: bool = False

    @property
    def rows(self) -> int:
        """UNet rows of a picture."""
        return 2 if self.guided else 1

    @property
    def whole(self) -> bool:
        """Whether it is the UNet as it stands, and nobody reads what it leaves."""
        plain = self.cross is Cross.computed and not self.merged
        return self.deep and not self.keeps and plain

    @property
    def kind(self) -> str:
        """A short name of what is computed, for records and statistics."""
        words = ["deep" if self.deep else "shallow"]
        words += ["guided"] if self.guided else []
        words += ["gated"] if self.cross is Cross.replayed else []
        words += ["merged"] if self.merged else []
        return "-".join(words)


def steps_of(shortcut: schema.Shortcut, calls: int, guided: bool) -> list[Step]:
    """Each UNet call of a batch, in order; `guided`: the model has two rows a picture.

    Where guidance begins in the middle there is no feature of the other rows: that call is deep.
    """
    rows = [guided and number in _guided(shortcut, calls) for number in range(calls)]
    deep = [
        number in _deep(shortcut, calls) or (number > 0 and rows[number] > rows[number - 1])
        for number in range(calls)
    ]
    keeps = [deep[n] and not deep[n + 1] for n in range(calls - 1)] + [False]
    gate, recorded = calls, -1
    if isinstance(shortcut, schema.TGate):
        gate = max(1, round(shortcut.gate * calls))
        recorded = max(number for number in range(gate) if deep[number]) if gate < calls else -1
    cross = [
        Cross.replayed if n >= gate else Cross.recorded if n == recorded else Cross.computed
        for n in range(calls)
    ]
    merged = isinstance(shortcut, schema.TokenMerging)
    return [Step(*each, merged) for each in zip(rows, deep, keeps, cross, strict=True)]


def parted(steps: Sequence[Step]) -> bool:
    """Whether the UNet has to be called in parts."""
    return not all(step.whole for step in steps)


def counts(steps: Sequence[Step]) -> dict[str, int]:
    """UNet calls by kind, in the order in which they first come."""
    found: dict[str, int] = {}
    for step in steps:
        found[step.kind] = found.get(step.kind, 0) + 1
    return found


def branch_of(shortcut: schema.Shortcut) -> int | None:
    """The skip connection above which the UNet is computed at every step; None: all of it is."""
    return shortcut.branch if isinstance(shortcut, schema.DeepCache) else None


def parts_of(shortcut: schema.Shortcut) -> list[str]:
    """What of the UNet a shortcut leaves out of some calls, as backends name what they can."""
    found = ["deep"] if branch_of(shortcut) is not None else []
    found += ["cross"] if gated(shortcut) else []
    return [*found, *(["tokens"] if isinstance(shortcut, schema.TokenMerging) else [])]


def gated(shortcut: schema.Shortcut) -> bool:
    """Whether cross-attention is kept."""
    return isinstance(shortcut, schema.TGate)


def _guided(shortcut: schema.Shortcut, calls: int) -> range:
    """The calls with guidance."""
    if isinstance(shortcut, schema.GuidanceCutoff):
        return range(round(shortcut.start * calls), round(shortcut.until * calls))
    if isinstance(shortcut, schema.TGate):
        return range(max(1, round(shortcut.gate * calls)))
    return range(calls)


def _deep(shortcut: schema.Shortcut, calls: int) -> Sequence[int]:
    """The calls that compute all of the UNet; the first always does."""
    if not isinstance(shortcut, schema.DeepCache):
        return range(calls)
    if shortcut.deep_steps is not None:
        return [0, *shortcut.deep_steps]
    return range(0, calls, shortcut.interval)
