"""What the UNet and the text encoders are called with; the same for running and calibrating."""

from __future__ import annotations

from typing import Any

import torch

from sdxl.core.types import Embeddings, TokenIds
from sdxl.model.prompts import MAX_TOKENS
from sdxl.model.sampler import LATENT_SCALE


def encode(first: Any, second: Any, ids: TokenIds, dtype: torch.dtype) -> Embeddings:
    """Penultimate states of both encoders (N, 77, D), pooled output of the second (N, P)."""
    with torch.inference_mode():
        states = []
        for encoder, rows in ((first, ids.first), (second, ids.second)):
            tokens = torch.as_tensor(rows, device=encoder.device)
            out = encoder(tokens, output_hidden_states=True)
            states.append(out.hidden_states[-2])
        return Embeddings(
            torch.cat(states, dim=-1).to(dtype), out.text_embeds.to(dtype), time_ids=None
        )


def predict(
    unet: Any, sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings
) -> torch.Tensor:
    """Predicted noise (N, 4, h, w)."""
    added = {"text_embeds": embeddings.pooled, "time_ids": embeddings.time_ids}
    return unet(
        sample,
        timestep,
        encoder_hidden_states=embeddings.hidden,
        timestep_cond=embeddings.guidance,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


def empty_inputs(unet: Any, rows: int, height: int, width: int) -> dict[str, Any]:
    """The arguments of a forward of `rows` rows for pictures of this size, on the meta device."""
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

    def empty(*shape: int, dtype: torch.dtype = unet.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    length = config.time_cond_proj_dim
    return {
        "timestep_cond": empty(rows, length) if length else None,
        "sample": empty(rows, config.in_channels, height // LATENT_SCALE, width // LATENT_SCALE),
        "timestep": empty(dtype=torch.float32),
        "encoder_hidden_states": empty(rows, MAX_TOKENS, config.cross_attention_dim),
        "added_cond_kwargs": {"text_embeds": empty(rows, pooled), "time_ids": empty(rows, 6)},
    }
