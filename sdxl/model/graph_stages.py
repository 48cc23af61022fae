"""The pipeline's stages on exported graphs, whoever runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from sdxl.config import graphs, schema
from sdxl.config.shortcuts import Cross, Step
from sdxl.core.types import Embeddings, TokenIds
from sdxl.model.images import on_device, to_host
from sdxl.model.parts import Kept

Tensors = dict[str, torch.Tensor]
Call = Callable[..., Tensors]
"""A graph: tensors of any float type by name, of which it takes its inputs -> its outputs.

A second argument names beginnings of outputs that nobody reads; they may be missing.
"""


class GraphStages:
    """`Stages` on one function for each graph; tensors lie on `device`."""

    def __init__(
        self,
        calls: Mapping[str, Call],
        device: torch.device,
        dtype: torch.dtype,
        decode_batch_size: int | None,
        shortcut: schema.Shortcut,
    ) -> None:
        self.calls, self.device, self.dtype = dict(calls), device, dtype
        self.decode_batch_size, self.shortcut = decode_batch_size, shortcut

    def encode(self, ids: TokenIds) -> Embeddings:
        """Penultimate states of both encoders (N, 77, D), pooled output of the second (N, P)."""
        first, second = (torch.as_tensor(n, device=self.device) for n in (ids.first, ids.second))
        one = self.calls["text_encoder"]({"input_ids": first})
        two = self.calls["text_encoder_2"]({"input_ids": second})
        states = torch.cat([one["hidden"], two["hidden"]], dim=-1)
        return Embeddings(states.to(self.dtype), two["pooled"].to(self.dtype), time_ids=None)

    def unet(
        self, sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings
    ) -> torch.Tensor:
        """Predicted noise (N, 4, h, w)."""
        return self.calls["unet"](_named(sample, timestep, embeddings))["noise"]

    def part(
        self, step: Step, sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings,
        kept: Kept,
    ) -> torch.Tensor:  # fmt: skip
        """Predicted noise (N, 4, h, w) of a call that leaves something, or takes what was left."""
        given = _named(sample, timestep, embeddings)
        if not step.deep:
            given[graphs.FEATURE] = kept.below(len(sample))
        if step.cross is Cross.replayed:
            given |= {f"{graphs.CROSS}{place}": each for place, each in enumerate(kept.crosses)}
        records = step.cross is Cross.recorded
        unread = (
            *(() if step.keeps else (graphs.KEPT_FEATURE,)),
            *(() if records else (graphs.KEPT_CROSS,)),
        )
        found = self.calls[graphs.unet_of(self.shortcut, step)](given, unread)
        noise, feature = found.pop("noise"), found.pop(graphs.KEPT_FEATURE, sample)
        kept.keep(step, feature, tuple(found.values()))
        return noise

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """uint8 images (B, H, W, 3) in host memory; raises `StageError` on NaN or Inf."""
        parts = []
        for chunk in latents.split(self.decode_batch_size or len(latents)):
            image = self.calls["vae_decoder"]({"latents": chunk})["image"]
            parts.append(on_device(image))
        return to_host(parts)

    def describe(self) -> dict[str, Any]:
        """Facts for the record."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what runs the graphs."""
        self.calls.clear()


def _named(sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings) -> Tensors:
    """What every graph of the UNet takes."""
    assert embeddings.time_ids is not None
    found = {
        "sample": sample,
        "timestep": timestep.reshape(1).float(),
        "encoder_hidden_states": embeddings.hidden,
        "text_embeds": embeddings.pooled,
        "time_ids": embeddings.time_ids,
    }
    scale = embeddings.guidance
    return found if scale is None else {**found, graphs.GUIDANCE: scale}
