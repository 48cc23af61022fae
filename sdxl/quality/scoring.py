"""The frame of every quality option: which pictures are scored, when, and in what pieces.

An option is `conf/quality/NAME.yaml` beside `sdxl/quality/NAME.py` with a light top part and one
`OPTION`, a `plugins.QualityOption`. `none` has no module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdxl.config.plugins import quality_of
from sdxl.config.schema import Config, Mode
from sdxl.core.types import Prompt, Sample, Scorer
from sdxl.quality.beside import Beside
from sdxl.quality.extra import asked
from sdxl.quality.extras import Extras

PIECE = 16
"""Pictures handed to a scorer at a time, whatever the scenario's batch."""
HELD_BYTES = 1 << 30
"""Pictures that performance mode keeps for scoring at most: 341 of 1024 x 1024."""


class Scoring:
    """Pairs pictures with prompts by qsl index, each index once, and feeds the scorer.

    Accuracy mode scores while pictures are made, in the thread that makes them: a second thread
    with torch in it would fight over the cores, and nothing is timed. Performance mode holds the
    first picture of each index, up to `HELD_BYTES`, and scores when the test is over and the
    generator is closed.
    """

    def __init__(
        self, config: Config, prompts: list[Prompt], reference: Mapping[int, np.ndarray] = {}
    ) -> None:
        self._option = quality_of(config)
        self._config, self._prompts = config, prompts
        self._reference = reference
        self._beside: Beside | None = None
        self._while_made = config.mode is Mode.accuracy
        self._scorer: Scorer | None = None
        self._seen: set[int] = set()
        self._indices: list[int] = []
        self._pictures: list[np.ndarray] = []
        self._room = HELD_BYTES
        self.scored = 0

    @property
    def wanted(self) -> bool:
        """Whether anything is scored at all."""
        return self._option is not None

    def begin(self) -> None:
        """Load the networks now if pictures are scored while they are made."""
        if self._option and self._while_made:
            self._open()

    def take(self, batch: list[Sample], pictures: np.ndarray) -> None:
        """Pictures (B, H, W, 3) of a batch; those of indices seen before are passed over."""
        if not self._option:
            return
        for sample, picture in zip(batch, pictures, strict=True):
            if sample.index in self._seen or (not self._while_made and picture.nbytes > self._room):
                continue
            self._seen.add(sample.index)
            self._indices.append(sample.index)
            self._pictures.append(picture.copy())
            self._room -= picture.nbytes
            if self._while_made and len(self._indices) == PIECE:
                self._score()

    def finish(self, on_progress: Callable[[int], None]) -> dict[str, Any]:
        """Score what waits; the scorer's result. `on_progress` hears how many are scored."""
        assert self._option
        if self._scorer is None:
            self._open()
        assert self._scorer
        while self._indices:
            self._score()
            on_progress(self.scored)
        result = self._scorer.result()
        return {"by": self._config.quality.name, "images": self.scored, **result}

    def beside_reference(self, folder: Path) -> dict[str, Any]:
        """Further parts of a record's quality, once all is scored: `reference`, `per_prompt`,
        `extra`.

        Each prompt's figures go to a file in `folder`.
        """
        assert self._beside
        return self._beside.result(folder)

    def _open(self) -> None:
        assert self._option
        self._scorer = self._option.open(self._config, self._prompts)
        quality, device = self._config.quality, self._config.model.device
        extras = Extras(quality, device, self._prompts) if asked(quality) else None
        self._beside = Beside(self._prompts, self._reference, extras)

    def _score(self) -> None:
        assert self._scorer and self._beside
        indices, self._indices = self._indices[:PIECE], self._indices[PIECE:]
        pictures, self._pictures = self._pictures[:PIECE], self._pictures[PIECE:]
        self._beside.take(self._scorer, indices, np.stack(pictures))
        self.scored += len(indices)
