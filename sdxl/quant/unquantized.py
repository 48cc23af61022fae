"""The unquantized model as stages of the one denoise loop, for watching."""

from __future__ import annotations

from typing import Any

import torch

from sdxl.config import shortcuts
from sdxl.config.schema import Config
from sdxl.config.shortcuts import Step
from sdxl.core.types import Embeddings, TokenIds
from sdxl.model import networks
from sdxl.model.components import Source, torch_device, torch_dtype
from sdxl.model.parts import Kept, Parts


class Unquantized:
    """`Stages` without a decoder: calibration needs no picture."""

    def __init__(self, source: Source, config: Config) -> None:
        device = torch_device(config.model.device)
        text = torch_dtype(config.precision.text_encoder)
        self.first = source.component("text_encoder", text, device)
        self.second = source.component("text_encoder_2", text, device)
        self.network: Any = source.component("unet", torch_dtype(config.precision.unet), device)
        self.forwards = 0
        shortcut, self._parts = config.shortcut, None
        if shortcuts.parts_of(shortcut):
            parts = shortcuts.branch_of(shortcut), shortcuts.gated(shortcut)
            self._parts = Parts(self.network, *parts)

    def encode(self, ids: TokenIds) -> Embeddings:
        return networks.encode(self.first, self.second, ids, self.network.dtype)

    def unet(
        self, sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings
    ) -> torch.Tensor:
        self.forwards += 1
        return networks.predict(self.network, sample, timestep, embeddings)

    def part(
        self, step: Step, sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings,
        kept: Kept,
    ) -> torch.Tensor:  # fmt: skip
        assert self._parts
        self.forwards += 1
        return self._parts(step, sample, timestep, embeddings, kept)

    def decode(self, latents: torch.Tensor) -> Any:
        raise NotImplementedError("calibration draws no pictures")

    def describe(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass
