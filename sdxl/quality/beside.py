"""Pictures beside the reference's, and each prompt's figures, while pictures are scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdxl.core.types import Looks, Prompt, Scorer
from sdxl.quality import baseline, paired, per_prompt
from sdxl.quality.per_prompt import DISTANCE, NUMBER, PerPrompt

LEAST_ERROR = 1 / 12
"""Mean square error, in steps of 255, that rounding to 8 bits makes by itself: equal pictures count
as 58.9 dB where figures are compared in pairs."""
KINDS = {"psnr_db": NUMBER, "ssim": NUMBER, "mean_deviation": DISTANCE}


class Beside:
    """What each prompt's picture scores, and its distance from the reference's if there is one."""

    def __init__(self, prompts: Sequence[Prompt], reference: Mapping[int, np.ndarray]) -> None:
        self._reference = reference
        self._table = PerPrompt(prompts)
        self._pairs: list[dict[str, Any]] = []

    def take(self, scorer: Scorer, indices: Sequence[int], images: np.ndarray) -> None:
        """Hand uint8 images (B, H, W, 3) to the scorer, and note what it knows of each."""
        kinds = scorer.kinds if isinstance(scorer, Looks) else {}
        self._table.take(indices, scorer.add(indices, images) or {}, kinds)
        places = [place for place, index in enumerate(indices) if index in self._reference]
        if not places:
            return
        both = [indices[place] for place in places]
        theirs = np.stack([self._reference[index] for index in both])
        if isinstance(scorer, Looks):
            self._table.take(both, scorer.look(both, theirs), kinds, reference=True)
        found = [baseline.pair(*pair) for pair in zip(theirs, images[places], strict=True)]
        self._pairs += found
        figures = {
            "psnr_db": [_decibels(each["psnr_db"]) for each in found],
            "ssim": [each["ssim"] for each in found],
            "mean_deviation": [each["mean_deviation"] for each in found],
        }
        self._table.take(both, figures, KINDS)

    def result(self, folder: Path) -> dict[str, Any]:
        """`reference`: the comparison; `per_prompt`: the file in `folder`; each where there is."""
        found: dict[str, Any] = {}
        if self._pairs:
            found["reference"] = baseline.summary(self._pairs)
            answers = paired.against_reference(self._table)
            found["reference"]["paired"] = [each.to_json() for each in answers]
            if changed := [*self._table.changed().values.values()]:
                found["reference"]["extra"] = {per_prompt.CHANGED: float(np.mean(changed))}
                found["reference"]["intervals"][per_prompt.CHANGED] = [*paired.interval(changed)]
        if facts := self._table.write(folder):
            found["per_prompt"] = facts
        return found


def _decibels(psnr_db: float | None) -> float:
    most = 10 * math.log10(baseline.PEAK**2 / LEAST_ERROR)
    return most if psnr_db is None else min(most, psnr_db)
