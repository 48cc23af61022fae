"""MLPerf's two scores of text-to-image, on pictures as they come."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdxl.config import schema
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.types import Figures, Prompt
from sdxl.model.components import torch_device
from sdxl.model.download import catalogue
from sdxl.quality import clip, frechet, inception, needs, settings
from sdxl.quality.per_prompt import NUMBER

PROMPTS = 5000
"""Pictures that the benchmark scores."""
FULL_RANK = 2048
"""Fewer pictures than features leave the covariance singular, and FID far too high."""
FLOOR = 20.0
"""CLIP score that no paired pictures of SDXL miss: unrelated ones score about 16, real ones 31."""
SURE = 3.0
"""Standard errors by which the own caption must beat another prompt's."""


class Official:
    """FID against reference statistics, and the mean CLIP score of pictures and their captions.

    `metrics`: `fid` (absent without statistics or below two pictures) and `clip_score` (100 x
    cosine). `clip.unrelated` is the mean score of all pictures with all other captions: what
    mispaired captions would score.
    """

    clip_name, scale, fid_name = "clip_score", 100.0, "fid"
    kinds: Mapping[str, Any] = {clip_name: NUMBER}
    family = clip.OPENAI

    def __init__(
        self, config: schema.Config, prompts: Sequence[Prompt], published_only: bool = False
    ) -> None:
        assert isinstance(config.quality, settings.Full)
        self.config, self.prompts = config, prompts
        paths = {name: store.resolve(value) for name, value in needs.files(config.quality).items()}
        self.files = {name: self.provenance(name, path) for name, path in paths.items()}
        if published_only:
            _refuse_others(self.files)
        device = torch_device(config.model.device)
        trusted = self.files["clip"]["published"]
        self.clip = clip.load(paths["clip"], paths["vocabulary"], trusted, device, self.family)
        self.reference: frechet.Statistics | None = None
        if "statistics" in paths:
            self.reference = frechet.read(paths["statistics"], inception.FEATURES)
            self.inception = inception.load(paths["inception"], device)
            self.moments = frechet.Moments(inception.FEATURES)
        self.scores: dict[int, float] = {}
        self._sums: list[np.ndarray] = []

    def provenance(self, name: str, path: Path) -> dict[str, Any]:
        """Which file this is, and whether it is the published one."""
        return provenance(name, path)

    def add(self, indices: Sequence[int], images: np.ndarray) -> Figures:
        """Score uint8 images (B, H, W, 3) of these prompts."""
        pictures, captions = self._features(indices, images)
        found = self.scale * (pictures * captions).sum(axis=1)
        self.scores |= dict(zip(indices, found.tolist(), strict=True))
        sums = [pictures.sum(axis=0), captions.sum(axis=0)]
        self._sums = [a + b for a, b in zip(self._sums or (0, 0), sums, strict=True)]
        if self.reference:
            self.moments.add(self.inception.features(images))
        return {self.clip_name: found.tolist()}

    def look(self, indices: Sequence[int], images: np.ndarray) -> Figures:
        """The CLIP score of other pictures of these prompts."""
        pictures, captions = self._features(indices, images)
        return {self.clip_name: (self.scale * (pictures * captions).sum(axis=1)).tolist()}

    def examined(self, indices: Sequence[int], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inception's features of pictures, and their cosines (B,); nothing is added up."""
        pictures, captions = self._features(indices, images)
        return self.inception.features(images), (pictures * captions).sum(axis=1)

    def _features(self, indices: Sequence[int], images: np.ndarray) -> tuple[Any, Any]:
        texts = [self.prompts[index].text for index in indices]
        pictures, captions = self.clip.pictures(images), self.clip.captions(texts)
        return pictures.astype(np.float64), captions.astype(np.float64)

    def result(self) -> dict[str, Any]:
        """The scores, and why they may not stand beside the round's bounds."""
        count = len(self.scores)
        values = np.array(list(self.scores.values()))
        metrics: dict[str, float] = {self.clip_name: float(values.mean())}
        if self.reference and count > 1:
            metrics[self.fid_name] = frechet.distance(self.moments.statistics(), self.reference)
        found: dict[str, Any] = {}
        if count > 1:
            every = self.scale * float(self._sums[0] @ self._sums[1])
            unrelated = (every - values.sum()) / (count * (count - 1))
            found = {
                "unrelated": unrelated,
                "standard_error": float(values.std(ddof=1)) / math.sqrt(count),
            }
        reasons = self._reasons(count, metrics[self.clip_name], found)
        return {
            "metrics": metrics,
            "comparable": not reasons,
            "comparable_reason": "; ".join(reasons),
            "clip": found,
            "files": self.files,
        }

    def _reasons(self, count: int, score: float, found: dict[str, float]) -> list[str]:
        dataset = self.config.dataset
        reasons = []
        if count < PROMPTS or dataset.name != "coco" or dataset.shuffle:
            text = f"{count} pictures of {dataset.name}, not 5,000 of coco"
            rank = f" (FID needs {FULL_RANK} for its covariance)" if count < FULL_RANK else ""
            reasons.append(text + (rank if self.reference else ""))
        others = [name for name, facts in self.files.items() if not facts["published"]]
        if others:
            reasons.append(f"not the published files: {', '.join(others)}")
        if self.reference is None:
            reasons.append("no FID: quality.statistics=null")
        above = score - found.get("unrelated", 0.0)
        if self.files["clip"]["published"] and score < FLOOR:
            reasons.append(f"CLIP score {score:.2f} is below {FLOOR:g}: are captions mispaired?")
        elif found and above < SURE * found["standard_error"]:
            reasons.append(
                f"CLIP score {score:.2f} is no better than with other prompts' captions, "
                f"{found['unrelated']:.2f}: are they mispaired?"
            )
        return reasons


def provenance(name: str, path: Path) -> dict[str, Any]:
    """Which file this is, and whether it is the published one."""
    if not path.is_file():  # a tokenizer's folder
        return {"path": str(path), "sha256": None, "published": False}
    default = Path(getattr(settings.Full, name)).name
    known = next(file for file in catalogue.load()["metrics"].files if file.name == default)
    return {
        "path": str(path),
        "sha256": store.sha256(path),
        "published": known.problem(path) is None,
    }


def _refuse_others(files: dict[str, dict[str, Any]]) -> None:
    for name, facts in files.items():
        if not facts["published"]:
            raise UserError(
                f"`quality.{name}` is not the file that MLPerf's metrics are defined with",
                facts["path"],
                "the published file, or quality=full",
                needs.DOWNLOAD,
            )
