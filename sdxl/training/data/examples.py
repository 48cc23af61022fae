"""What a UNet is tuned on: latents and embeddings by its own model's VAE and text encoders."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdxl.config.schema.train import TrainConfig, Tuning
from sdxl.core.errors import UserError
from sdxl.model.scenes.captions import Caption
from sdxl.training.data import scene_data
from sdxl.training.data.embed import Examples, encode_captions, time_ids
from sdxl.training.data.sharded import Shards


def open_examples(config: TrainConfig) -> Examples:
    """The shards of `train.shards`, or rendered scenes."""
    settings = config.train
    assert isinstance(settings, Tuning)
    if settings.shards:
        return Shards(config, settings.shards)
    return Rendered(config)


class Rendered:
    """Scenes through the model's VAE and text encoders, kept in the store, memory-mapped."""

    def __init__(self, config: TrainConfig) -> None:
        settings, model = config.train, config.model
        if not settings.size == model.height == model.width:
            raise UserError(
                "rendered scenes must have the model's size",
                f"train.size={settings.size}, model {model.width} x {model.height}",
                "one size",
                f"train.size={model.width} model.height={model.width}",
            )
        self.count, self.size, self.seed = settings.scenes, settings.size, config.seed
        folder = encode_captions(config, settings.scenes, settings.size)
        self.identity = folder.name
        names = ("latents", "hidden", "pooled", "none_hidden", "none_pooled")
        self.data = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
        self.none = (self._floats("none_hidden"), self._floats("none_pooled"))

    moments = False

    def rows(
        self, rows: np.ndarray, _noise: Tensor | None = None, /
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The rows, all of one size."""
        parts = (self._floats(name, rows) for name in ("latents", "hidden", "pooled"))
        latents, hidden, pooled = parts
        return latents, hidden, pooled, time_ids(len(rows), self.size, self.size)

    def texts(self, rows: np.ndarray) -> list[str]:
        """The captions of the rows."""
        return [self.captions[row].text for row in rows]

    @cached_property
    def captions(self) -> list[Caption]:
        """One of each scene."""
        return scene_data.wordings(self.seed, self.count)

    def _floats(self, name: str, rows: Any = slice(None)) -> Tensor:
        return torch.from_numpy(self.data[name][rows].astype(np.float32))
