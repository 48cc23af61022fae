"""Settings of the quality options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from sdxl.config import schema


@dataclass
class Fast(schema.Quality):
    """What `fd_efficientnet` and `kid_efficientnet` compare with; scenes need nothing."""

    reference: Optional[str] = None  # a folder of real pictures; null: rendered scenes, or no FD


@dataclass
class Full(schema.Quality):
    """Where the metric networks are; `python -m sdxl download metrics` puts the published ones."""

    inception: str = "store:metrics/pt_inception-2015-12-05-6726825d.pth"  # FID's network
    statistics: Optional[str] = "store:metrics/val2014.npz"  # FID's reference; null: no FID
    clip: str = "store:metrics/ViT-B-32.pt"  # the CLIP score's network
    vocabulary: str = "store:metrics/bpe_simple_vocab_16e6.txt.gz"  # or a tokenizer's folder


@dataclass
class Mlperf(Full):
    """As `full`, but other files than the published ones are refused."""
