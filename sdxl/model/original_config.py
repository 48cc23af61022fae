"""Configurations of a single file's networks: ours for SDXL, their numbers from the file's shapes.

Head counts and the groups of a norm leave no trace in shapes: SDXL's conventions hold (heads of 64,
32 groups). A model made otherwise says so in `model.config=FOLDER`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sdxl.model import architecture

HEAD = 64
"""Channels of one attention head in SDXL's UNet and text encoders."""

Shapes = Mapping[str, tuple[int, ...]]
Settings = dict[str, Any]


def unet(shapes: Shapes) -> Settings:
    """The UNet's configuration from original names without prefix; {} for another kind of UNet."""
    try:
        levels = list(_levels(shapes))
        channels = [level[0] for level in levels]
        depths = [level[2] for level in levels]
        found: Settings = {
            "_class_name": "UNet2DConditionModel",
            **architecture.SDXL["unet"],
            "in_channels": shapes["input_blocks.0.0.weight"][1],
            "out_channels": shapes["out.2.weight"][0],
            "block_out_channels": channels,
            "layers_per_block": levels[0][1],
            "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
            "up_block_types": [
                "CrossAttnUpBlock2D" if d else "UpBlock2D" for d in reversed(depths)
            ],
            "transformer_layers_per_block": [depth or 1 for depth in depths],
            "attention_head_dim": [max(1, width // HEAD) for width in channels],
        }
        crossed = next(key for key in shapes if key.endswith("attn2.to_k.weight"))
        found["cross_attention_dim"] = shapes[crossed][1]
        projected = next(key for key in shapes if key.endswith("1.proj_in.weight"))
        found["use_linear_projection"] = len(shapes[projected]) == 2
        wide = shapes.get("label_emb.0.0.weight")
        found["addition_embed_type"] = "text_time" if wide else None
        found["projection_class_embeddings_input_dim"] = wide[1] if wide else None
        return found
    except (KeyError, StopIteration, IndexError):
        return {}


def _levels(shapes: Shapes) -> Iterator[tuple[int, int, int]]:
    """(channels, residual blocks, transformer layers) of each resolution on the way down."""
    width, blocks, depth, at = 0, 0, 0, 1
    while any(key.startswith(f"input_blocks.{at}.") for key in shapes):
        if f"input_blocks.{at}.0.op.weight" in shapes:
            yield width, blocks, depth
            blocks = depth = 0
        else:
            width = shapes[f"input_blocks.{at}.0.out_layers.3.weight"][0]
            blocks += 1
            depth = max(depth, _count(shapes, rf"input_blocks\.{at}\.1\.transformer_blocks\.(\d+)"))
        at += 1
    yield width, blocks, depth


def vae(shapes: Shapes) -> Settings:
    """The VAE's configuration from original names without prefix; {} for another kind."""
    try:
        count = _count(shapes, r"decoder\.up\.(\d+)\.")
        channels = [shapes[f"decoder.up.{n}.block.0.conv2.weight"][0] for n in range(count)]
        return {
            "_class_name": "AutoencoderKL",
            **architecture.SDXL["vae"],
            "block_out_channels": channels,
            "layers_per_block": _count(shapes, r"encoder\.down\.0\.block\.(\d+)")
            or _count(shapes, r"decoder\.up\.0\.block\.(\d+)") - 1,
            "latent_channels": shapes["decoder.conv_in.weight"][1],
            "down_block_types": ["DownEncoderBlock2D"] * count,
            "up_block_types": ["UpDecoderBlock2D"] * count,
        }
    except (KeyError, IndexError):
        return {}


def text_encoder(shapes: Shapes) -> Settings:
    """The first text encoder's configuration (CLIP ViT-L)."""
    return _encoder(
        architecture.SDXL["text_encoder"],
        shapes,
        tokens="text_model.embeddings.token_embedding.weight",
        inner="text_model.encoder.layers.0.mlp.fc1.weight",
        layers=r"text_model\.encoder\.layers\.(\d+)",
        projection="text_projection.weight",
    )


def text_encoder_2(shapes: Shapes) -> Settings:
    """The second text encoder's configuration (OpenCLIP ViT-bigG)."""
    return _encoder(
        architecture.SDXL["text_encoder_2"],
        shapes,
        tokens="token_embedding.weight",
        inner="transformer.resblocks.0.mlp.c_fc.weight",
        layers=r"transformer\.resblocks\.(\d+)",
        projection="text_projection",
    )


def _encoder(
    base: Settings, shapes: Shapes, *, tokens: str, inner: str, layers: str, projection: str
) -> Settings:
    if tokens not in shapes or inner not in shapes:
        return {}
    rows, width = shapes[tokens]
    return {
        **base,
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": shapes[inner][0],
        "num_hidden_layers": _count(shapes, layers),
        "num_attention_heads": max(1, width // HEAD),
        "projection_dim": shapes[projection][-1] if projection in shapes else width,
        "bos_token_id": rows - 2,
        "eos_token_id": rows - 1,
        "pad_token_id": 1,
    }


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that follows the pattern's beginning; 0 for none."""
    found = (re.match(pattern, key) for key in shapes)
    return max((int(match.group(1)) + 1 for match in found if match), default=0)


DERIVED = {
    "unet": unet,
    "vae": vae,
    "text_encoder": text_encoder,
    "text_encoder_2": text_encoder_2,
}
"""How a component's configuration follows from its shapes."""
