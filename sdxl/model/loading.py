"""A network from its configuration and its weights: nothing missing, unfit, or left over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdxl.core.errors import UserError

Weights = dict[str, torch.Tensor]

_LEFT_OVER = re.compile(r"(^|\.)(position_ids|logit_scale)$")
"""Names in files of text encoders that the libraries' modules have no place for any more."""
_NEEDLESS = {"text_encoder": re.compile(r"text_projection\.(weight|bias)")}
"""Weights of a component that SDXL never uses."""


def read(files: Iterable[Path]) -> Weights:
    """The tensors of all files, under the names that the bare module gives them."""
    from safetensors.torch import load_file

    found: Weights = {}
    for file in files:
        found.update(load_file(file))
    return {name: found[old] for name, old in unwrapped(found).items()}


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Names without what `torch.compile` and data-parallel wrappers put before them: new -> old."""
    found = {name.replace("_orig_mod.", ""): name for name in names}
    while found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): old for name, old in found.items()}
    return found


def on_meta(name: str, config: Mapping[str, Any]) -> Any:
    """The network without weights, for counting and for filling."""
    with torch.device("meta"):
        if name in ("unet", "vae"):
            kind = _diffusers(name, config)
            return kind.from_config({k: v for k, v in config.items() if k != "_name_or_path"})
        kind, settings = _transformers(name, config)
        return kind(settings)


def shapes(name: str, config: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    """The network on the meta device, as it would be loaded."""
    return nn.Module.to(on_meta(name, config), dtype).eval().requires_grad_(False)


def fill(
    name: str, config: Mapping[str, Any], weights: Weights, dtype: torch.dtype, place: Path,
    how: str, called: str | None = None,
) -> nn.Module:  # fmt: skip
    """The network with its weights, on the CPU; `place` holds them, `how` brings whole ones.

    Raises `UserError` for weights that are missing, `RuntimeError` for those of another shape.
    `called`: the network's name in messages.
    """
    if name in ("unet", "vae"):
        module = on_meta(name, config)
        module._fix_state_dict_keys_on_load(weights)
        cast = {key: _cast(tensor, dtype) for key, tensor in weights.items()}
        result = module.load_state_dict(cast, strict=False, assign=True)
        missing, extra = result.missing_keys, result.unexpected_keys
    else:
        kind, settings = _transformers(name, config)
        module, info = kind.from_pretrained(
            None, config=settings, state_dict=weights, dtype=dtype, output_loading_info=True
        )
        missing, extra = info["missing_keys"], info["unexpected_keys"]
    extra = [key for key in extra if not needless(name, key)]
    _check(called or name, sorted(missing), sorted(extra), place, how)
    return module


def _check(name: str, missing: list[str], extra: list[str], place: Path, how: str) -> None:
    if missing:
        raise UserError(
            f"{place} lacks {len(missing)} weights of `{name}`",
            ", ".join(missing[:5]),
            "all of them: the rest would be random numbers",
            how,
        )
    if extra:
        raise UserError(
            f"{place} holds {len(extra)} weights that its config.json has no place for in `{name}`",
            ", ".join(extra[:5]),
            "a configuration that goes with the weights: they would be ignored",
            how,
        )


def needless(name: str, key: str) -> bool:
    """Whether a weight may be left out: no module of SDXL computes with it."""
    unused = _NEEDLESS.get(name)
    return bool(_LEFT_OVER.search(key) or (unused and unused.fullmatch(key)))


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _diffusers(name: str, config: Mapping[str, Any]) -> Any:
    import diffusers

    if name == "unet":
        return diffusers.UNet2DConditionModel
    return getattr(diffusers, vae_class(config))


def vae_class(config: Mapping[str, Any]) -> str:
    """The class of a VAE, by its configuration."""
    return str(config.get("_class_name") or "AutoencoderKL")


def _transformers(name: str, config: Mapping[str, Any]) -> tuple[Any, Any]:
    import transformers

    kind = "CLIPTextModel" if name == "text_encoder" else "CLIPTextModelWithProjection"
    settings = config.get("text_config") if config.get("model_type") == "clip" else config
    return getattr(transformers, kind), transformers.CLIPTextConfig.from_dict(dict(settings or {}))
