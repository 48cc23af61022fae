"""Captions as a UNet's conditions, and what a training's examples are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sdxl.config import content_key
from sdxl.config.schema import Model
from sdxl.config.schema.train import TrainConfig
from sdxl.core import store
from sdxl.model.components import Source, torch_device
from sdxl.model.scenes import world
from sdxl.model.sources import open_source
from sdxl.training.data import encoded, scene_data

NEGATIVE = 1
"""Row of the model's negative prompt among the unconditional ones; row 0 is the empty caption."""


class Examples(Protocol):
    """Rows to train on; `none` are hidden (2, 77, D) and pooled (2, P) unconditional states."""

    count: int
    none: tuple[Tensor, Tensor]
    moments: bool
    identity: Any  # what must be the same when a training goes on, JSON-ready

    def rows(
        self, rows: np.ndarray, noise: Tensor | None = None, /
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """latents (B, 4, h, w), hidden (B, 77, D), pooled (B, P), time_ids (B, 6); float32.

        noise (B, 4, h, w): what latents are drawn with where `moments` are kept; else their means.
        """
        ...

    def texts(self, rows: np.ndarray) -> list[str]:
        """The captions of the rows."""
        ...


def unconditional(model: Model) -> list[str]:
    """The texts that dropped captions are replaced by."""
    return ["", model.negative_prompt or ""]


def time_ids(count: int, height: int, width: int) -> Tensor:
    """SDXL's size conditioning (count, 6) of whole pictures, in pixels."""
    return torch.tensor([[height, width, 0, 0, height, width]] * count, dtype=torch.float32)


def text_encoders(source: Source, device: torch.device) -> tuple[Any, Any]:
    """Both text encoders in fp32."""
    first, second = (
        source.component(name, torch.float32, device) for name in ("text_encoder", "text_encoder_2")
    )
    return first, second


def encode_captions(config: TrainConfig, count: int, size: int) -> Path:
    source = open_source(config.model, config.seed)
    none = unconditional(config.model)
    settings = {
        "weights": source.identity(), "seed": config.seed, "count": count, "size": size,
        "look": world.LOOK, "none": none,
    }  # fmt: skip

    def build(folder: Path) -> dict[str, Any]:
        device = torch_device(config.model.device)
        vae = source.component("vae", torch.float32, device)
        encoded.write_latents(folder, vae, scene_data.pictures(config.seed, count, size))
        texts = [caption.text for caption in scene_data.wordings(config.seed, count)]
        encoders = text_encoders(source, device)
        encoded.write_embeddings(folder, encoders, source.tokenizers(), texts, none)
        return {}

    kept = {**settings, "weights": config.model.name}
    return store.get("latents", content_key.key(settings), build, settings=kept).path
