"""Low-rank layers beside those of a network, by PEFT, and the file that keeps them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdxl.core.errors import UserError


def layers(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The Linears and convolutions whose names the patterns are found in.

    Raises `UserError` for a pattern that is found in none, or that is no regular expression.
    """
    names = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    found: set[str] = set()
    for pattern in patterns:
        try:
            here = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise _no_target(pattern, str(error)) from error
        if not here:
            raise _no_target(pattern, "it is found in no layer's name")
        found |= here
    if not found:
        raise _no_target("[]", "no layer")
    return [name for name in names if name in found]


def _no_target(pattern: str, why: str) -> UserError:
    return UserError(
        "`train.targets` names layers of the UNet",
        f"{pattern}: {why}",
        "regular expressions found in names of layers",
        "train.targets=[to_q,to_k,to_v,to_out]",
    )


def put(network: nn.Module, names: Iterable[str], rank: int, alpha: float) -> None:
    """Add them beside the layers of these names; they begin without effect, and alone are trained.

    `torch.manual_seed` decides what they begin with.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear

    network.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="|".join(map(re.escape, names)))
    inject_adapter_in_model(config, network)
    for layer in network.modules():
        if isinstance(layer, Linear):
            layer.lora_variant.update(dict.fromkeys(layer.lora_A, _added()))


@cache
def _added() -> Any:
    """PEFT's Linear with its upper product, its scale and the sum in one operation, not three."""
    from peft.tuners.lora.layer import LoraVariant

    class Added(LoraVariant):
        @staticmethod
        def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Any:
            low = module.lora_A[active_adapter](x).flatten(0, -2)
            up, scale = module.lora_B[active_adapter].weight, module.scaling[active_adapter]
            return torch.addmm(result.flatten(0, -2), low, up.T, alpha=scale).view_as(result)

    return Added()


def state(network: Any, rank: int, alpha: float) -> dict[str, Tensor]:
    """Their weights by PEFT's names.

    alpha / rank goes into the upper ones, so that a reader that looks for no alpha is right, too.
    """
    from peft import get_peft_model_state_dict

    found: Mapping[str, Tensor] = get_peft_model_state_dict(network)
    scales = {"lora_A": 1.0, "lora_B": alpha / rank}
    return {
        name: value.detach().cpu() * scales[name.split(".")[-2]] for name, value in found.items()
    }


@torch.no_grad()
def write(folder: Path, networks: Mapping[str, Any], rank: int, alpha: float) -> None:
    """`pytorch_lora_weights.safetensors` of `unet` and, where they learnt, the text encoders."""
    from diffusers import StableDiffusionXLPipeline

    StableDiffusionXLPipeline.save_lora_weights(
        folder,
        **{f"{part}_lora_layers": state(each, rank, alpha) for part, each in networks.items()},
    )
