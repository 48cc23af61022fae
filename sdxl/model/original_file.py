"""One file of weights, in the original or diffusers' layout: its parts and their configurations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdxl.core.errors import UserError
from sdxl.model import architecture, loading, original, original_config, weight_files
from sdxl.model.readable import readable

Shapes = dict[str, tuple[int, ...]]

_KINDS = {
    "a LoRA (model.lora=FILE)": ("lora_up", "lora_down", ".lora_A.", ".lora_B.", "lora_unet_"),
    "a ControlNet": ("control_model.", "controlnet_cond_embedding."),
    "a Stable Diffusion 3 model": ("joint_blocks.",),
    "a Flux model": ("double_blocks.", "single_blocks."),
    "a Stable Diffusion 1.x model": ("cond_stage_model.transformer.",),
    "a Stable Diffusion 2.x model": ("cond_stage_model.model.",),
    "the SDXL refiner": ("conditioner.embedders.0.model.",),
}
"""Parts of names that only other kinds of file have."""


def kind_of(names: Iterable[str]) -> str | None:
    """What a file of these names is, if it is no SDXL model; None: it may be one."""
    names = list(names)
    for kind, parts in _KINDS.items():
        if any(part in name for part in parts for name in names):
            return kind
    return None


class WeightFile:
    """Weights in one file; reads the header when asked, tensors only in `network`."""

    def __init__(self, file: Path, how: str) -> None:
        self.file, self.how = file, how
        tensors = weight_files.header(file, how)
        self._stored = loading.unwrapped(tensors)
        self.shapes: Shapes = {new: tensors[old].shape for new, old in self._stored.items()}

    @cached_property
    def parts(self) -> dict[str, dict[str, str]]:
        """Names in the original layout: component -> name without prefix -> whole name."""
        found: dict[str, dict[str, str]] = {}
        for key in self.shapes:
            if (name := original.part_of(key)) and not original.ignored(key):
                bare = key.removeprefix(original.PREFIXES[name])
                found.setdefault(name, {})[bare] = key
        return found

    def alone(self, name: str) -> dict[str, str]:
        """The names of a file that holds one component only, with or without its prefix."""
        return self.parts.get(name) or {key: key for key in self.shapes}

    def config(
        self, name: str, keys: Mapping[str, str], candidates: Iterable[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The first configuration that fits the part's shapes; one derived from them comes last.

        Raises `UserError` with the first weights that are missing, left over or of another shape.
        """
        shapes = {bare: self.shapes[key] for bare, key in keys.items()}
        if name == "vae" and any(key.startswith("decoder.layers.") for key in shapes):
            candidates = [{"_class_name": "AutoencoderTiny"}]
        derived = original_config.DERIVED[name](shapes)
        told = {key: derived[key] for key in ("in_channels", "out_channels") if key in derived}
        tried = [{**each, **told} for each in candidates]
        tried.append(derived or dict(architecture.SDXL[name]))
        wrongs = []
        for each in tried:
            if not (found := _differences(name, each, shapes)):
                return each
            wrongs.append(found)
        said = min(wrongs, key=lambda found: sum(map(len, found.values())))
        wrong = "lacks weights" if "missing" in said else "holds other weights than its shapes tell"
        raise UserError(
            f"{self.file} is an SDXL file whose `{name}` {wrong}",
            "; ".join(
                f"{what}: {', '.join(names[:3])}{_more(names)}" for what, names in said.items()
            ),
            "an SDXL model in the original key layout, whole",
            self.how,
        )

    def network(
        self, name: str, keys: Mapping[str, str], config: Mapping[str, Any], dtype: torch.dtype,
        device: torch.device, called: str | None = None,
    ) -> nn.Module:  # fmt: skip
        """The network of one part."""
        if device.type == "meta":
            return loading.shapes(name, config, dtype)
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as opened:
            found = {bare: opened.get_tensor(self._stored[key]) for bare, key in keys.items()}
        with readable(f"the weights of `{called or name}`", self.file, "whole weights", self.how):
            if _is_original(name, found):
                found = original.to_diffusers(name, found, config)
            module = loading.fill(name, config, found, dtype, self.file, self.how, called)
        return module.to(device).eval().requires_grad_(False)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 3} more" if len(names) > 3 else ""


def _is_original(name: str, names: Iterable[str]) -> bool:
    """Whether a part has the original names, not diffusers'."""
    marks: dict[str, tuple[str, ...]] = {
        "unet": ("input_blocks.",),
        "vae": ("encoder.down.", "decoder.up.", "encoder.mid.", "decoder.mid."),
        "text_encoder": ("text_model.",),
        "text_encoder_2": ("transformer.",),
    }
    return any(key.startswith(marks[name]) for key in names)


def _differences(name: str, config: Mapping[str, Any], shapes: Shapes) -> dict[str, list[str]]:
    """What keeps a part from fitting a configuration: names, by what is wrong with them."""
    try:
        state = loading.on_meta(name, config).state_dict()
    except Exception as error:  # of every kind: numbers that do not go together
        return {"no such network": [str(error)] * len(shapes)}
    prefix = ""
    # Where little is there to tell by, it is a single file: those have the original layout.
    if _is_original(name, shapes) or not set(state) & set(shapes):
        state, prefix = original.from_diffusers(name, state, config), original.PREFIXES[name]
    wanted = {key.removeprefix(prefix): tuple(tensor.shape) for key, tensor in state.items()}
    extra = [key for key in shapes if key not in wanted and not loading.needless(name, key)]
    other = [key for key in wanted if key in shapes and not _same(shapes[key], wanted[key])]
    found = {
        "missing": [prefix + key for key in wanted if key not in shapes],
        "left over": [prefix + key for key in extra],
        "of another shape": [f"{prefix}{key} {shapes[key]}" for key in other],
    }
    return {what: names for what, names in found.items() if names}


def _same(stored: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Equal but for trailing ones: a matrix may be stored as a 1 x 1 kernel, and the reverse."""
    return stored == wanted or stored == wanted[:2] or stored[:2] == wanted
