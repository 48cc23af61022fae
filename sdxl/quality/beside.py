"""Pictures beside the reference's, and each prompt's figures, while pictures are scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdxl.core.types import Figures, Looks, Prompt, Scorer
from sdxl.quality import baseline, paired, per_prompt
from sdxl.quality.extras import Extras
from sdxl.quality.per_prompt import DISTANCE, NUMBER, PerPrompt

LEAST_ERROR = 1 / 12
"""Mean square error, in steps of 255, that rounding to 8 bits makes by itself: equal pictures count
as 58.9 dB where figures are compared in pairs."""
KINDS = {"psnr_db": NUMBER, "ssim": NUMBER, "mean_deviation": DISTANCE}


class Beside:
    """What each prompt's picture scores, and its distance from the reference's if there is one."""

    def __init__(
        self, prompts: Sequence[Prompt], reference: Mapping[int, np.ndarray],
        extras: Extras | None = None,
    ) -> None:  # fmt: skip
        self._reference, self._extras = reference, extras
        self._table = PerPrompt(prompts)
        self._pairs: list[dict[str, Any]] = []

    def take(self, scorer: Scorer, indices: Sequence[int], images: np.ndarray) -> None:
        """Hand uint8 images (B, H, W, 3) to the scorer, and note what is known of each."""
        self._note(scorer, indices, images, scorer.add(indices, images) or {})
        places = [place for place, index in enumerate(indices) if index in self._reference]
        if not places:
            return
        both = [indices[place] for place in places]
        ours, theirs = images[places], np.stack([self._reference[index] for index in both])
        seen = scorer.look(both, theirs) if isinstance(scorer, Looks) else {}
        self._note(scorer, both, theirs, seen, reference=True)
        found = [baseline.pair(*pair) for pair in zip(theirs, ours, strict=True)]
        self._pairs += found
        figures = {
            "psnr_db": [decibels(each["psnr_db"]) for each in found],
            "ssim": [each["ssim"] for each in found],
            "mean_deviation": [each["mean_deviation"] for each in found],
        }
        self._table.take(both, figures, KINDS)
        if self._extras:
            self._table.take(both, self._extras.beside(ours, theirs), self._extras.kinds)

    def result(self, folder: Path) -> dict[str, Any]:
        """Parts of a record's quality, where there are: `reference`, the comparison; `per_prompt`,
        the file in `folder`; `extra`, facts and means of further metrics.
        """
        found: dict[str, Any] = {}
        if self._pairs:
            found["reference"] = self._compared()
        if self._extras:
            found["extra"] = {name: {**facts} for name, facts in self._extras.facts.items()}
            for name, facts in found["extra"].items():
                if values := self._values(name):
                    facts["mean"] = float(np.mean(values))
        if facts := self._table.write(folder):
            found["per_prompt"] = facts
        return found

    def _note(
        self, scorer: Scorer, indices: Sequence[int], images: np.ndarray, figures: Figures,
        reference: bool = False,
    ) -> None:  # fmt: skip
        kinds = scorer.kinds if isinstance(scorer, Looks) else {}
        self._table.take(indices, figures, kinds, reference=reference)
        if self._extras:
            single = self._extras.single(indices, images)
            self._table.take(indices, single, self._extras.kinds, reference=reference)

    def _compared(self) -> dict[str, Any]:
        found = baseline.summary(self._pairs)
        answers = paired.against_reference(self._table)
        found["paired"] = [each.to_json() for each in answers]
        distances = {per_prompt.CHANGED: [*self._table.changed().values.values()]}
        if self._extras:
            names = [n for n, facts in self._extras.facts.items() if facts["kind"] == "paired"]
            distances |= {name: self._values(name) for name in names}
        known = {name: values for name, values in distances.items() if values}
        found["extra"] = {name: float(np.mean(values)) for name, values in known.items()}
        found["extra"] |= self._extras.sets() if self._extras else {}
        found["intervals"] |= {n: [*paired.interval(v)] for n, v in known.items() if len(v) > 1}
        return found

    def _values(self, name: str) -> list[float]:
        figure = self._table.figures.get(name)
        return [*figure.values.values()] if figure else []


def decibels(psnr_db: float | None) -> float:
    """PSNR of a pair as pairs are compared: of equal pictures what rounding leaves."""
    most = 10 * math.log10(baseline.PEAK**2 / LEAST_ERROR)
    return most if psnr_db is None else min(most, psnr_db)
