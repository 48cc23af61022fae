"""A LoRA fused into the weights, before anything is quantized.

An 8-bit engine cannot take one later, so the file is part of every content key. Reads what
diffusers reads (its own names, PEFT's, Kohya's and the SGM block names); needs no PEFT.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdxl.core.errors import UserError

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
_DOWN = re.compile(r"[._](lora_A|lora\.down|lora_down|lora_linear_layer\.down)\.weight$")
"""The first factor's name; with `_lora.down` the old attention processors' `to_q_lora` too."""


@torch.no_grad()
def fuse(network: nn.Module, component: str, file: Path, scale: float, unet_config: Any) -> int:
    """Add `scale` times the LoRA's change to the weights of one component; returns how many.

    Raises `UserError` if the file is no LoRA, or changes a layer that the network does not have.
    """
    pairs = read(file, unet_config)
    unknown = []
    for (owner, name), (down, up, alpha) in pairs.items():
        if owner != component:
            continue
        module = _layer(network, name)
        if module is None:
            unknown.append(name)
            continue
        rank = down.shape[0]
        change = up.flatten(1).float() @ down.flatten(1).float()
        factor = scale * (rank if alpha is None else alpha) / rank
        weight: Any = module.weight
        fused = weight.float() + factor * change.reshape(weight.shape).to(weight.device)
        weight.copy_(fused.to(weight.dtype))
    if unknown:
        raise UserError(
            f"the LoRA changes {len(unknown)} layers that {component} does not have",
            ", ".join(unknown[:5]),
            "a LoRA for SDXL",
            "model.lora=null",
        )
    return sum(owner == component for owner, _ in pairs)


def existing(file: Path) -> Path:
    """The file; raises `UserError` if it is not there."""
    if not file.is_file():
        raise UserError("`model.lora` is not there", str(file), "a .safetensors file")
    return file


def read(
    file: Path, unet_config: Any
) -> dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor, float | None]]:
    """(component, layer) -> down (r, in, ...), up (out, r, ...), alpha."""
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

    try:
        state, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
            str(existing(file)), unet_config=unet_config, use_safetensors=True
        )
    except UserError:
        raise
    except Exception as error:  # diffusers raises many kinds for files it cannot read
        raise UserError(
            "`model.lora` cannot be read", f"{file}: {error}", "a .safetensors LoRA for SDXL"
        ) from error
    pairs = {}
    for key, down in state.items():
        found = _DOWN.search(key)
        if not found:
            continue
        stem, end = key[: found.start()], key[found.start() :]
        up = state[stem + end.replace("lora_A", "lora_B").replace("down", "up")]
        alpha = (alphas or {}).get(f"{key}.alpha", state.get(f"{stem}.alpha"))
        owner, _, name = stem.partition(".")
        pairs[owner, _plain(owner, name)] = down, up, None if alpha is None else float(alpha)
    if not pairs or any(owner not in COMPONENTS for owner, _ in pairs):
        raise UserError(
            "`model.lora` holds no LoRA for SDXL",
            f"{file}: {', '.join(list(state)[:3]) or 'nothing'}",
            f"layers of {', '.join(COMPONENTS)}",
        )
    return pairs


def _plain(owner: str, name: str) -> str:
    """The layer's name in the network, from a converter's."""
    name = name.replace(".processor", "")
    if owner != "unet":
        name = re.sub(r"\.to_([qkv])$", r".\1_proj", name)
        name = re.sub(r"\.to_out$", ".out_proj", name)
    return name


def _layer(network: nn.Module, name: str) -> nn.Module | None:
    """The Linear or convolution of that name; transformers 5 dropped `text_model` in front."""
    modules = dict(network.named_modules())
    for candidate in (name, f"{name}.0", name.removeprefix("text_model."), f"text_model.{name}"):
        if isinstance(modules.get(candidate), nn.Linear | nn.Conv2d):
            return modules[candidate]
    return None
