"""Calls of a UNet under a shortcut: which part, and what one call keeps for later ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from sdxl.config import schema, shortcuts
from sdxl.config.shortcuts import Cross, Step
from sdxl.core.types import Embeddings
from sdxl.model import merging, split

Tensor = torch.Tensor
Crosses = tuple[Tensor, ...]
Given = tuple[Tensor | None, ...]
"""Of each cross-attention what it shall have made; None where the call does not come to it."""


@dataclass
class Kept:
    """What the calls of one batch leave each other, in memory that stays.

    feature: (N, C, h, w) below the branch, conditional rows last; crosses: outputs of each
    cross-attention, of the conditional rows. Copies: a captured graph reads where it read before,
    and torch.compile's own graphs write their next outputs over these.
    """

    feature: Tensor | None = None
    crosses: Crosses = ()

    def keep(self, step: Step, feature: Tensor, crosses: Crosses) -> None:
        """Take what a call leaves, if a later one reads it."""
        if step.keeps:
            self.feature = _put(self.feature, feature)
        if step.cross is Cross.recorded:
            found = tuple(mean(each) if step.guided else each for each in crosses)
            before = self.crosses or (None,) * len(found)
            self.crosses = tuple(map(_put, before, found))

    def below(self, rows: int) -> Tensor:
        """The feature for that many rows; of fewer than it has, the conditional ones."""
        assert self.feature is not None, "a deep call comes first"
        return self.feature[-rows:]


def _put(before: Tensor | None, found: Tensor) -> Tensor:
    if before is None or len(before) < len(found):  # in the warm-up, before any capture
        return found.clone()
    before[-len(found) :].copy_(found)
    return before


def mean(cross: Tensor) -> Tensor:
    """Of the unconditional and the conditional rows, as T-GATE keeps it."""
    negative, positive = cross.chunk(2)
    return (negative + positive) / 2


class Parts:
    """A UNet's calls by step; `compiled` wraps the function that computes."""

    def __init__(
        self, unet: Any, shortcut: schema.Shortcut,
        compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda run: run,
    ) -> None:  # fmt: skip
        self.unet, self.branch = unet, shortcuts.branch_of(shortcut)
        split.check(unet, self.branch)
        self.gates = split.gate(unet) if shortcuts.gated(shortcut) else []
        self.merges: list[merging.Merge] = []
        if isinstance(shortcut, schema.TokenMerging):
            self.merges = merging.install(unet, shortcut)
        self._run = compiled(self.run)

    def __call__(
        self, step: Step, sample: Tensor, timestep: Tensor, embeddings: Embeddings, kept: Kept
    ) -> Tensor:
        """Predicted noise (N, 4, h, w) of a call of the rows that are given."""
        feature = None if step.deep else kept.below(len(sample))
        crosses = kept.crosses if step.cross is Cross.replayed else ()
        given = vars(embeddings).values()
        predicted, feature, crosses = self._run(
            sample, timestep, feature, crosses, *given, cross=step.cross, merged=step.merged
        )
        kept.keep(step, feature, crosses)
        return predicted

    def eager(self) -> Parts:
        """The same calls, not compiled."""
        found = copy.copy(self)
        found._run = found.run
        return found

    def run(
        self, sample: Tensor, timestep: Tensor, feature: Tensor | None, crosses: Given,
        *embeddings: Any, cross: Cross = Cross.computed, merged: bool = False,
    ) -> tuple[Tensor, Tensor, Crosses]:  # fmt: skip
        """Predicted noise, the feature, and what the cross-attentions made if they record."""
        for number, each in enumerate(self.gates):
            each.does = cross
            if cross is Cross.replayed:
                each.value = crosses[number]
        for merge in self.merges:
            merge.on, merge.size = merged, (sample.shape[-2], sample.shape[-1])
        given = Embeddings(*embeddings)
        predicted, below = split.forward(self.unet, self.branch, feature, sample, timestep, given)
        recorded: Crosses = ()
        if cross is Cross.recorded:
            recorded = tuple(each.take() for each in self.gates)
        for each in self.gates:
            each.does = Cross.computed
        for merge in self.merges:
            merge.on = False
        return predicted, below, recorded


def positive(embeddings: Embeddings, images: int) -> Embeddings:
    """The conditional rows of `images` pictures."""
    parts = {name: each for name, each in vars(embeddings).items() if each is not None}
    return replace(embeddings, **{name: each[-images:] for name, each in parts.items()})
