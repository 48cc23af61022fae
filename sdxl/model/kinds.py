"""UNet calls by what they compute, each kind ready to run on shapes alone: for counting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sdxl.config import schema, shortcuts
from sdxl.config.shortcuts import Cross, Step
from sdxl.core.types import Embeddings
from sdxl.model import networks
from sdxl.model.parts import Kept, Parts

RECORDS = Step(guided=False, keeps=True, cross=Cross.recorded)
"""A call whose leavings are all there is to read."""


@dataclass(frozen=True)
class Kind:
    """Calls that compute the same: one of them, and how many a batch has."""

    step: Step
    calls: int
    _ready: Callable[[], Callable[[], Any]]

    @property
    def run(self) -> Callable[[], Any]:
        """One such call, after what it reads from."""
        return self._ready()


def kinds_of(
    unet: Any, shortcut: schema.Shortcut, steps: Sequence[Step], size: tuple[int, int], images: int
) -> list[Kind]:
    """Each kind of call of a batch of `images`; 0 images: of a single row.

    unet: on the meta device; size: height and width of a picture.
    """
    parts = None
    if shortcuts.parted(steps):
        parts = Parts(unet, shortcut)
    calls, found = shortcuts.counts(steps), []
    for step in {step.kind: step for step in steps}.values():
        inputs = networks.empty_inputs(unet, step.rows * images or 1, *size)
        alone = replace(step, guided=False) if not images else step
        ready = partial(_part, parts, alone, inputs) if parts else partial(partial, unet, **inputs)
        found.append(Kind(step, calls[step.kind], ready))
    return found


def _part(parts: Parts, step: Step, inputs: dict[str, Any]) -> Callable[[], Any]:
    """A call in parts, after the one that it reads from."""
    pooled, ids = inputs["added_cond_kwargs"].values()
    hidden, scale = inputs["encoder_hidden_states"], inputs["timestep_cond"]
    embeddings = Embeddings(hidden, pooled, ids, scale)
    given, kept = (inputs["sample"], inputs["timestep"], embeddings), Kept()
    if not step.deep or step.cross is Cross.replayed:
        parts(RECORDS, *given, kept)
    return partial(parts, step, *given, kept)
