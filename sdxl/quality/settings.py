"""Settings of the quality options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Optional

from sdxl.config import schema
from sdxl.config.content_key import added
from sdxl.config.ranges import Range, positive

AUTO = "auto"
"""`quality.reference`: pictures of the same model in torch fp32, made once and kept."""


@dataclass
class Scored(schema.Quality):
    """What every option that scores has: pictures to compare with, and further metrics."""

    reference: Optional[str] = added(AUTO)  # auto: the same model in torch fp32; null: none
    reference_images: Optional[int] = added(None)  # of auto; null: 16, of the bundled model all
    reference_steps: Optional[int] = added(None)  # of auto; null: as many as the cell's own
    extra: Optional[list[str]] = added(None)  # further metrics, such as [ms_ssim,lpips]; null: none
    weights: Optional[list[str]] = added(None)  # of `extra`: [METRIC:PATH]; null: in the store


def real_pictures(quality: schema.Quality) -> str | None:
    """The folder that `quality.reference` names; None for `auto`, or without any."""
    named = getattr(quality, "reference", None)
    return None if named == AUTO else named


def reference_steps(quality: schema.Quality, model: schema.Model) -> int:
    """Steps of the reference's pictures."""
    return getattr(quality, "reference_steps", None) or model.steps


@dataclass
class Fast(Scored):
    """A folder as reference is one of real pictures, for `fd_efficientnet`, `kid_efficientnet`."""

    reference: Optional[str] = AUTO  # auto: the same model in torch fp32; FOLDER: real pictures


@dataclass
class Full(Scored):
    """Where the metric networks are; `python -m sdxl download metrics` puts the published ones."""

    inception: str = "store:metrics/pt_inception-2015-12-05-6726825d.pth"  # FID's network
    statistics: Optional[str] = "store:metrics/val2014.npz"  # FID's reference; null: no FID
    clip: str = "store:metrics/ViT-B-32.pt"  # the CLIP score's network
    vocabulary: str = "store:metrics/bpe_simple_vocab_16e6.txt.gz"  # or a tokenizer's folder


@dataclass
class Mlperf(Full):
    """As `full`, but other files than the published ones are refused."""

    reference: Optional[str] = added(None)  # auto: the same model in torch fp32; null: none


@dataclass
class MlperfTraining(Full):
    """The scores of MLPerf's training benchmark: another CLIP, and 30,000 resized pictures."""

    reference: Optional[str] = added(None)  # auto: the same model in torch fp32; null: none
    statistics: Optional[str] = "store:metrics/val2014_30k_stats.npz"  # FID's reference
    clip: str = "store:metrics/open_clip_pytorch_model.bin"  # ViT-H/14 laion2b_s32b_b79k
    target_fid: float = 90.0  # a checkpoint passes with at most this FID ...
    target_clip: float = 0.15  # ... and at least this CLIP score, a cosine

    RANGES: ClassVar[dict[str, Range]] = {
        "target_fid": positive(1e6),
        "target_clip": Range(-1, 1),
    }


@dataclass
class Smoke(Mlperf):
    """As `mlperf`, with published bounds for 100 prompts that are not MLPerf's."""
