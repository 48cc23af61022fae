"""The two scores of MLPerf's training benchmark (Stable Diffusion 2), on pictures as they come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.quality import clip, needs
from sdxl.quality.full_scorer import Official, provenance
from sdxl.quality.per_prompt import NUMBER

PROMPTS = 30_000
"""Captions that the benchmark scores."""
VIT_H_14 = "9a78ef8e8c73fd0df621682e7a8e8eb36c6916cb3c16b291a082ecd52ab79cc4"
"""SHA-256 of open_clip_pytorch_model.bin; that of the statistics is not published."""


class Training(Official):
    """FID against the 30,000 resized pictures, and the mean cosine of ViT-H/14, not times 100.

    `metrics`: `fid_30k`, `clip_h14`. Pictures go into Inception as uint8, at the size they have.
    """

    clip_name, scale, fid_name = "clip_h14", 1.0, "fid_30k"
    kinds: Mapping[str, Any] = {clip_name: NUMBER}
    family = clip.VIT_H_14

    def provenance(self, name: str, path: Path) -> dict[str, Any]:
        """Which file this is; raises `UserError` for the inference benchmark's statistics."""
        if name == "clip":
            digest = store.sha256(path)
            return {"path": str(path), "sha256": digest, "published": digest == VIT_H_14}
        if name != "statistics":
            return provenance(name, path)
        if provenance(name, path)["published"]:
            raise UserError(
                "`quality.statistics` are those of the inference benchmark",
                str(path), "val2014_30k_stats.npz", needs.TRAINING[name],
            )  # fmt: skip
        return {"path": str(path), "sha256": store.sha256(path), "published": None}

    def _reasons(self, count: int, score: float, found: dict[str, float]) -> list[str]:
        """Always at least one: no model here is the benchmark's."""
        dataset = self.config.dataset
        reasons = ["the benchmark's metrics, of a model that is not the benchmark's"]
        if count != PROMPTS or dataset.name != "coco_30k":
            reasons.append(f"{count} pictures of {dataset.name}, not 30,000 of coco_30k")
        others = [name for name, facts in self.files.items() if facts["published"] is False]
        if others:
            reasons.append(f"not the published files: {', '.join(others)}")
        return reasons
