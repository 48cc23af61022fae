"""LoRAs fused into the weights, before anything is quantized.

An 8-bit engine cannot take one later, so the files are part of every content key. PEFT knows what a
LoRA or DoRA does to a weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdxl.config.loras import Lora
from sdxl.core.errors import UserError
from sdxl.model.lora_config import FIX
from sdxl.model.lora_file import Change, listed, read

Changes = dict[str, Change]
Fitting = tuple[Lora, Changes]
"""A LoRA, and its changes by the network's own names of the layers."""


def fitting(
    loras: Sequence[Lora], unet_config: Any, shapes_of: Callable[[str], nn.Module]
) -> dict[str, list[Fitting]]:
    """What each LoRA changes, by component; checked on the shapes of the networks alone.

    Raises `UserError` if a file is no LoRA, holds a tensor that would not be used, or does not fit.
    """
    found: dict[str, list[Fitting]] = {}
    for each in loras:
        every = read(each.path, unet_config)
        for component in dict.fromkeys(owner for owner, _ in every):
            ours = {name: change for (owner, name), change in every.items() if owner == component}
            fitted = _fitted(shapes_of(component), component, ours, each.path)
            found.setdefault(component, []).append((each, fitted))
    return found


def merge(network: nn.Module, fits: Sequence[Fitting]) -> int:
    """Into the weights of one component, by PEFT; returns how many changed.

    Equal to diffusers' `set_adapters` and `fuse_lora`, but in float32 until the last LoRA and then
    rounded once.
    """
    changed = {name for _, changes in fits for name in changes}
    with _in_float32([network.get_submodule(name) for name in changed]):
        for each, changes in fits:
            for dora in (False, True):
                some = {n: c for n, c in changes.items() if (c.magnitude is not None) == dora}
                try:
                    if some:
                        _merge(network, some, each.scale, dora)
                except ValueError as error:  # a sum that is no number
                    raise UserError(
                        "`model.lora` cannot be fused", f"{each.path}: {error}", fix=FIX
                    ) from error
    return len(changed)


@contextmanager
def _in_float32(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Weights in float32 for a while: PEFT alone would round each change, and each sum."""
    own: list[Any] = [(module, module.weight.dtype) for module in modules]
    for module, _ in own:
        module.float()
    try:
        yield
    finally:
        for module, dtype in own:
            module.to(dtype)


def _fitted(network: nn.Module, component: str, changes: Changes, file: Path) -> Changes:
    """The changes by the network's own names; every layer is there and has the shape."""
    modules = dict(network.named_modules())
    found, unknown, unfit = {}, [], []
    for name, change in changes.items():
        own = _own_name(modules, name)
        if own is None or own in found:
            unknown.append(name)
            continue
        weight: Any = modules[own].weight
        if not change.fits(weight):
            shapes = " and ".join(str(tuple(each.shape)) for each in (change.up, change.down))
            unfit.append(f"{name}: {shapes} for a weight {tuple(weight.shape)}")
        found[own] = change
    for bad, what in ((unknown, "does not have"), (unfit, "has in other shapes")):
        if bad:
            raise UserError(
                f"the LoRA changes {len(bad)} layers that {component} {what}",
                f"{file}: {listed(bad)}",
                "a LoRA for SDXL",
                FIX,
            )
    return found


@torch.no_grad()
def _merge(network: nn.Module, changes: Changes, scale: float, dora: bool) -> None:
    """One LoRA's changes, all DoRA or none."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = LoraConfig(
        target_modules="|".join(map(re.escape, changes)),
        rank_pattern={f"^{re.escape(name)}": each.rank for name, each in changes.items()},
        alpha_pattern={f"^{re.escape(n)}": each.alpha * scale for n, each in changes.items()},
        use_dora=dora,
    )
    state = {}
    for name, change in changes.items():
        weight: Any = network.get_submodule(name).weight
        tail = [1] * (weight.ndim - 2)
        key = f"base_model.model.{name}"
        state[f"{key}.lora_A.default.weight"] = change.down.reshape(change.rank, *weight.shape[1:])
        state[f"{key}.lora_B.default.weight"] = change.up.reshape(-1, change.rank, *tail)
        if change.magnitude is not None:
            shape = (1, -1, *tail) if tail else (-1,)
            name = f"{key}.lora_magnitude_vector.default.weight"
            state[name] = change.magnitude.reshape(shape)
    # On the meta device first: no random numbers are drawn for what the file replaces. Not by
    # set_peft_model_state_dict, which would round the factors to the weights' precision.
    model: Any = get_peft_model(network, config, low_cpu_mem_usage=True)
    left = model.load_state_dict(
        {name: tensor.to(weight.device) for name, tensor in state.items()},
        strict=False, assign=True,
    )  # fmt: skip
    assert not left.unexpected_keys, left.unexpected_keys
    try:
        for layer in model.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.merge(safe_merge=True)
    finally:
        model.unload()
        vars(network).pop("peft_config", None)


def _own_name(modules: Mapping[str, nn.Module], name: str) -> str | None:
    """The Linear or convolution of that name; transformers 5 dropped `text_model` in front."""
    for candidate in (name, f"{name}.0", name.removeprefix("text_model."), f"text_model.{name}"):
        if isinstance(modules.get(candidate), nn.Linear | nn.Conv2d):
            return candidate
    return None
