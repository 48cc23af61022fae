"""SDXL's original key layout, that of single files: its parts to diffusers' names and back.

A single file has `model.diffusion_model.` (UNet), `first_stage_model.` (VAE), and
`conditioner.embedders.0.transformer.` and `conditioner.embedders.1.model.` (text encoders).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
_IGNORED = re.compile(
    r"(model_ema\.|denoiser\.|first_stage_model\.(loss\.|model_ema)|conditioner\.embedders\.[2-9]\.)"
    r"|(v_pred|ztsnr|edm_\w+|vsigma_max|betas|alphas_cumprod\w*|sqrt_\w+|log_one_\w+|logvar|"
    r"posterior_\w+|scale_factor)$"
)
"""Names beside the four networks: running averages, tables, marks of the noise schedule."""


def part_of(key: str) -> str | None:
    """The component that a key of a single file belongs to; None: to none of them."""
    return next((name for name, prefix in PREFIXES.items() if key.startswith(prefix)), None)


def ignored(key: str) -> bool:
    """Whether a key beside the four networks is known to be needless."""
    return bool(_IGNORED.match(key))


def to_diffusers(name: str, weights: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A component's weights, original names without the prefix -> diffusers' and transformers'.

    Works on tensors of the meta device too.
    """
    from diffusers.loaders import single_file_utils as library

    whole = {PREFIXES[name] + key: tensor for key, tensor in weights.items()}
    if name == "unet":
        return dict(library.convert_ldm_unet_checkpoint(whole, config))
    if name == "vae":
        return dict(library.convert_ldm_vae_checkpoint(whole, config))
    if name == "text_encoder":
        return {key.removeprefix("text_model."): tensor for key, tensor in weights.items()}
    prefix = PREFIXES[name]
    return dict(library.convert_open_clip_checkpoint(_Width(config), whole, prefix=prefix))


class _Width:
    """What the library asks a text encoder for: its width."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = type("Config", (), {"hidden_size": config["hidden_size"]})


def from_diffusers(
    name: str, weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """A component's weights under their original names, prefix included."""
    prefix = PREFIXES[name]
    if name == "text_encoder":
        bare = {key.removeprefix("text_model."): tensor for key, tensor in weights.items()}
        return {f"{prefix}text_model.{key}": tensor for key, tensor in bare.items()}
    if name == "text_encoder_2":
        return {prefix + key: tensor for key, tensor in _open_clip(weights).items()}
    if name == "unet":
        layers = int(config["layers_per_block"]) + 1
        crossed = ["Cross" in kind for kind in config["up_block_types"]]
        renamed = {_unet_key(key, layers, crossed): t for key, t in weights.items()}
    else:
        last = len(config["up_block_types"]) - 1
        renamed = {_vae_key(key, last): _as_kernel(key, t) for key, t in weights.items()}
    return {prefix + key: tensor for key, tensor in renamed.items()}


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def _unet_key(key: str, layers: int, crossed: list[bool]) -> str:
    """`down_blocks.1.resnets.0.conv1.weight` -> `input_blocks.4.0.in_layers.2.weight`."""
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", key):
        side, block, kind, number, rest = found.groups()
        down, at = side == "down", int(block) * layers
        place = (
            f"input_blocks.{at + int(number) + 1}" if down else f"output_blocks.{at + int(number)}"
        )
        if kind == "downsamplers":
            return f"input_blocks.{at + layers}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{at + layers - 1}.{2 if crossed[int(block)] else 1}.{rest}"
        return f"{place}.1.{rest}" if kind == "attentions" else f"{place}.0.{_resnet(rest)}"
    if found := re.match(r"mid_block\.(\w+)\.(\d+)\.(.+)", key):
        kind, number, rest = found.groups()
        at = 2 * int(number)
        if kind == "attentions":
            return f"middle_block.{at + 1}.{rest}"
        return f"middle_block.{at}.{_resnet(rest)}"
    return _fixed("unet", key)


def _resnet(rest: str) -> str:
    layer, _, kind = rest.partition(".")
    return f"{_RESNET[layer]}.{kind}"


_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def _vae_key(key: str, last: int) -> str:
    """`decoder.up_blocks.0.resnets.1.conv1.weight` -> `decoder.up.3.block.1.conv1.weight`."""
    if found := re.match(r"(en|de)coder\.(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", key):
        coder, side, block, kind, number, rest = found.groups()
        at = int(block) if side == "down" else last - int(block)
        if kind == "resnets":
            rest = rest.replace("conv_shortcut", "nin_shortcut")
            return f"{coder}coder.{side}.{at}.block.{number}.{rest}"
        return f"{coder}coder.{side}.{at}.{side}sample.{rest}"
    if found := re.match(r"(en|de)coder\.mid_block\.(\w+)\.(\d+)\.(.+)", key):
        coder, kind, number, rest = found.groups()
        if kind == "resnets":
            rest = rest.replace("conv_shortcut", "nin_shortcut")
            return f"{coder}coder.mid.block_{int(number) + 1}.{rest}"
        layer, _, end = rest.rpartition(".")
        return f"{coder}coder.mid.attn_1.{_VAE_ATTENTION[layer]}.{end}"
    return _fixed("vae", key)


def _as_kernel(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """The VAE's attention was written with 1 x 1 convolutions."""
    matrix = ".attentions." in key and tensor.dim() == 2
    return tensor[:, :, None, None] if matrix else tensor


def _fixed(name: str, key: str) -> str:
    """The original name of a weight outside the blocks."""
    from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING

    tables: Any = DIFFUSERS_TO_LDM_MAPPING[name]
    if name == "unet":
        tables = {**tables["layers"], **tables["addition_embed_type"]}
    return str(tables.get(key, key))


def _open_clip(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers' names -> OpenCLIP's, with q, k and v in one matrix."""
    from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING

    fixed: Any = DIFFUSERS_TO_LDM_MAPPING["openclip"]["layers"]
    inner: Any = DIFFUSERS_TO_LDM_MAPPING["openclip"]["transformer"]
    found: dict[str, torch.Tensor] = {}
    for key, tensor in weights.items():
        if key == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
            continue
        if key in fixed:
            found[fixed[key]] = tensor
            continue
        if found_part := re.fullmatch(r"(.+\.)self_attn\.([qkv])_proj\.(weight|bias)", key):
            layer, part, kind = found_part.groups()
            if part != "q":
                continue
            parts = [weights[f"{layer}self_attn.{each}_proj.{kind}"] for each in "qkv"]
            key, tensor = f"{layer}self_attn.in_proj_{kind}", torch.cat(parts)
        for new, old in inner.items():
            key = key.replace(new, old)
        found[f"transformer.{key}"] = tensor
    return found
