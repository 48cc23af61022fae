"""Further metrics while pictures are scored: figures of each, and distances of sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sdxl.config.schema import Device, Quality
from sdxl.core.types import Figures, Prompt
from sdxl.quality import extra
from sdxl.quality.per_prompt import Kind


class Extras:
    """The metrics that a configuration names, opened."""

    def __init__(self, quality: Quality, device: Device, prompts: Sequence[Prompt]) -> None:
        self._prompts = prompts
        self._known = extra.asked(quality)
        self._open = _opened(quality, device, self._known) if self._known else {}
        self.facts = {name: extra.facts(quality, name) for name in self._known}
        self.kinds = {name: Kind(m.higher_is_better) for name, m in self._known.items()}
        self._sets: dict[str, tuple[list[Any], list[Any]]] = {}

    def single(self, indices: Sequence[int], images: np.ndarray) -> Figures:
        """Figures of uint8 pictures (B, H, W, 3) of these prompts."""
        captions = [self._prompts[index].text for index in indices]
        return {name: self._open[name](images, captions) for name in self._of("single")}

    def beside(self, ours: np.ndarray, theirs: np.ndarray) -> Figures:
        """Figures of pairs; of sets the features are kept until `sets` is asked."""
        for name in self._of("set"):
            kept = self._sets.setdefault(name, ([], []))
            for side, pictures in zip(kept, (ours, theirs), strict=True):
                side.append(self._open[name].features(pictures))
        return {name: self._open[name](ours, theirs) for name in self._of("paired")}

    def sets(self) -> dict[str, float]:
        """Distances of all our pictures to all of the reference's."""
        return {
            name: float(self._open[name].distance(*map(np.concatenate, sides)))
            for name, sides in self._sets.items()
        }

    def _of(self, kind: str) -> list[str]:
        return [name for name, metric in self._known.items() if metric.kind == kind]


def _opened(quality: Quality, device: Device, known: Mapping[str, extra.Metric]) -> dict[str, Any]:
    from sdxl.model.components import torch_device  # seconds of torch, which few runs need here

    chosen = torch_device(device)
    return {
        name: metric.open(extra.weights_of(quality, name), chosen) for name, metric in known.items()
    }
