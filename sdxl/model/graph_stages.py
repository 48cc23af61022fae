"""The pipeline's stages on exported graphs, whoever runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from sdxl.config.shortcuts import Step
from sdxl.core.types import Embeddings, TokenIds
from sdxl.model.images import to_uint8
from sdxl.model.parts import Kept

Call = Callable[..., list[torch.Tensor]]
"""A graph: its inputs in order, tensors of any float type -> its outputs."""


class GraphStages:
    """`Stages` on one function for each graph; tensors lie on `device`."""

    def __init__(
        self,
        calls: Mapping[str, Call],
        device: torch.device,
        dtype: torch.dtype,
        decode_batch_size: int | None,
    ) -> None:
        self.calls, self.device, self.dtype = dict(calls), device, dtype
        self.decode_batch_size = decode_batch_size

    def encode(self, ids: TokenIds) -> Embeddings:
        """Penultimate states of both encoders (N, 77, D), pooled output of the second (N, P)."""
        first, second = (torch.as_tensor(n, device=self.device) for n in (ids.first, ids.second))
        (hidden,) = self.calls["text_encoder"](first)
        hidden_2, pooled = self.calls["text_encoder_2"](second)
        states = torch.cat([hidden, hidden_2], dim=-1)
        return Embeddings(states.to(self.dtype), pooled.to(self.dtype), time_ids=None)

    def unet(
        self, sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings
    ) -> torch.Tensor:
        """Predicted noise (N, 4, h, w)."""
        return self._unet("unet", sample, timestep, embeddings)[0]

    def part(
        self, step: Step, sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings,
        kept: Kept,
    ) -> torch.Tensor:  # fmt: skip
        """Predicted noise (N, 4, h, w) of a call that leaves a feature, or begins with one."""
        given = sample, timestep, embeddings
        if not step.deep:
            return self._unet("unet_shallow", *given, kept.below(len(sample)))[0]
        noise, feature = self._unet("unet_deep", *given)
        kept.keep(step, feature, ())
        return noise

    def _unet(
        self, graph: str, sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings,
        *feature: torch.Tensor,
    ) -> list[torch.Tensor]:  # fmt: skip
        scale = [] if embeddings.guidance is None else [embeddings.guidance]
        added = embeddings.pooled, embeddings.time_ids, *feature, *scale
        when = timestep.reshape(1).float()
        return self.calls[graph](sample, when, embeddings.hidden, *added)

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """uint8 images (B, H, W, 3) in host memory; raises `StageError` on NaN or Inf."""
        parts = []
        for chunk in latents.split(self.decode_batch_size or len(latents)):
            (image,) = self.calls["vae_decoder"](chunk)
            parts.append(to_uint8(image.permute(0, 2, 3, 1).float().cpu().numpy()))
        return np.concatenate(parts)

    def describe(self) -> dict[str, Any]:
        """Facts for the record."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what runs the graphs."""
        self.calls.clear()
