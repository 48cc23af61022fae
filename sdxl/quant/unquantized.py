"""The unquantized model as stages of the one denoise loop, for watching.

Encoders and UNet are not in memory at the same time: all that will be asked is encoded first.
"""

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
    """`Stages` without a decoder: calibration needs no picture. `load` comes before `unet`."""

    def __init__(self, source: Source, config: Config) -> None:
        device = torch_device(config.model.device)
        text = torch_dtype(config.precision.text_encoder)
        self._dtype = torch_dtype(config.precision.unet)
        self._encoders = [
            source.component(name, text, device) for name in ("text_encoder", "text_encoder_2")
        ]
        self._encoded: dict[bytes, Embeddings] = {}
        self._unet = lambda: source.component("unet", self._dtype, device)
        self._shortcut = config.shortcut
        self._parts: Parts | None = None
        self.network: Any = None
        self.forwards = 0

    def load(self) -> None:
        """Put the UNet in the encoders' place."""
        self._encoders.clear()
        self.network, shortcut = self._unet(), self._shortcut
        if shortcuts.parts_of(shortcut):
            self._parts = Parts(self.network, shortcut)

    def encode(self, ids: TokenIds) -> Embeddings:
        asked = ids.first.tobytes() + ids.second.tobytes()
        if asked not in self._encoded:
            first, second = self._encoders
            self._encoded[asked] = networks.encode(first, second, ids, self._dtype)
        return self._encoded[asked]

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
