"""What a LoRA's file says: which layers it changes, and by what.

diffusers knows where a tensor belongs (its own names, PEFT's, Kohya's and the SGM block names).
Every tensor of the file is used, or the file is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sdxl.core.errors import UserError
from sdxl.model import lora_config
from sdxl.model.lora_config import FIX, Alphas

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
_ENDING = re.compile(
    r"""[._](?:                      # an underscore in the old attention processors' to_q_lora
      (?P<down>lora_A|lora_down|lora\.down|lora_linear_layer\.down)\.weight
    | (?P<up>lora_B|lora_up|lora\.up|lora_linear_layer\.up)\.weight
    | (?P<mid>lora_mid)\.weight      # LoCon's convolution between two of 1 x 1 (Tucker)
    | (?P<alpha>alpha)
    | (?P<dora>dora_scale)           # Kohya's name of DoRA's magnitude, and PEFT's
    | (?P<magnitude>lora_magnitude_vector(?:\.weight)?)
    )$""",
    re.VERBOSE,
)
"""The end of a tensor's name, which says what it is."""
_READS_TEXT = re.compile(r"attn2\.to_[kv]$")
_OTHER_MODELS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2"}
"""Models by the width of the text that their UNet reads."""


@dataclass(frozen=True)
class Change:
    """What the file does to one layer: up @ down * alpha / rank, and of DoRA a magnitude."""

    stem: str
    down: torch.Tensor
    up: torch.Tensor
    alpha: float
    magnitude: torch.Tensor | None

    @property
    def rank(self) -> int:
        """The width between both factors."""
        return self.down.shape[0]

    def fits(self, weight: torch.Tensor) -> bool:
        """Whether the shapes are those of a layer's weight; a 1x1 convolution stands for Linear."""
        out, inner = weight.shape[0], weight.shape[1:]
        return (
            self.down.shape[1:2] == inner[:1]
            and self.down[0].numel() == inner.numel()
            and self.up.shape[:2] == (out, self.rank)
            and self.up[0].numel() == self.rank
            and (self.magnitude is None or self.magnitude.numel() == out)
        )


def read(file: Path, unet_config: Any) -> dict[tuple[str, str], Change]:
    """(component, layer) -> what changes there.

    Raises `UserError` if a tensor of the file is no part of such a change, or if its UNet is
    another model's.
    """
    file = lora_config.existing(file)
    alphas = lora_config.Alphas(file)
    state = load_file(file)
    layers = _layers(state, file)
    places = _places(layers, unet_config, file)
    lost = [stem for stem in layers if stem not in places]  # names of two trainers in one file
    _all_used([key for key in state if key.startswith(tuple(lost))], file)
    times = Counter(places.values())
    _all_used([stem for stem, place in places.items() if times[place] > 1], file)
    changes = {
        places[stem]: _change(stem, parts, alphas, *places[stem]) for stem, parts in layers.items()
    }
    _for_this_text(changes, getattr(unet_config, "cross_attention_dim", None), file)
    return changes


def _layers(state: Mapping[str, torch.Tensor], file: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Each layer's tensors by their kind, under the file's own name of the layer."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    strange = []
    for key, tensor in state.items():
        match = _ENDING.search(key)
        if match and _usable(str(match.lastgroup), tensor):
            found.setdefault(key[: match.start()], {})[str(match.lastgroup)] = tensor
        else:
            strange.append(key)
    whole = {stem: parts for stem, parts in found.items() if {"down", "up"} <= parts.keys()}
    if not whole:
        raise UserError(
            "`model.lora` holds no LoRA for SDXL",
            f"{file}: {listed(strange or list(state)) or 'nothing'}",
            f"pairs of lora_down and lora_up for layers of {', '.join(COMPONENTS)}",
            FIX,
        )
    lone = [
        f"{stem} ({', '.join(parts)} alone)" for stem, parts in found.items() if stem not in whole
    ]
    _all_used(strange + lone, file)
    return whole


def _usable(kind: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor can be what its name says."""
    if kind == "alpha":
        return tensor.numel() == 1
    return tensor.numel() > 0 and tensor.ndim >= (2 if kind in ("down", "up") else 1)


def _places(
    layers: Mapping[str, Mapping[str, torch.Tensor]], unet_config: Any, file: Path
) -> dict[str, tuple[str, str]]:
    """The file's name of a layer -> (component, layer), by diffusers' converters.

    They keep the tensors and change the names, so a tensor leads back to where it came from.
    """
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

    stems = {id(parts["down"]): stem for stem, parts in layers.items()}
    factors = {}
    for stem, parts in layers.items():
        kohya = stem.startswith("lora_")
        for kind, old, new in (("down", "lora_down", "lora_A"), ("up", "lora_up", "lora_B")):
            factors[f"{stem}.{old if kohya else new}.weight"] = parts[kind]
    try:
        named, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
            factors, unet_config=unet_config
        )
    except Exception as error:  # diffusers raises many kinds for names it does not know
        raise UserError(
            "`model.lora` cannot be read", f"{file}: {error}", "a .safetensors LoRA for SDXL", FIX
        ) from error
    found = {}
    for name, tensor in named.items():
        if id(tensor) in stems:
            own = _ENDING.sub("", name).replace("base_model.model.", "")
            owner, _, layer = own.partition(".")
            if owner not in COMPONENTS:  # of a UNet saved alone
                owner, layer = "unet", f"{owner}.{layer}"
            found[stems[id(tensor)]] = owner, _plain(owner, layer)
    return found


def _plain(owner: str, name: str) -> str:
    """The layer's name in the network, from a converter's."""
    name = name.replace(".processor", "")
    if owner != "unet":
        name = re.sub(r"\.to_([qkv])$", r".\1_proj", name)
        name = re.sub(r"\.to_out$", ".out_proj", name)
    return name


def _change(
    stem: str, parts: Mapping[str, torch.Tensor], alphas: Alphas, component: str, layer: str
) -> Change:
    down, up, file = parts["down"].float(), parts["up"].float(), alphas.file
    if "mid" in parts:
        down = _through(parts["mid"].float(), down, f"{stem}.lora_mid.weight", file)
    said = alphas.of(component, layer, down.shape[0])
    if said is not None and "alpha" in parts:
        _all_used([f"{stem}.alpha"], file)  # PEFT's settings say another, or the same again
    rank = float(down.shape[0])
    alpha = float(parts["alpha"]) if "alpha" in parts else rank if said is None else said
    magnitude = parts.get("magnitude", parts.get("dora"))
    if "dora" in parts and parts["dora"].shape[0] != parts["dora"].numel():
        shape = tuple(parts["dora"].shape)
        raise UserError(
            "`model.lora` is a DoRA of a kind that cannot be fused",
            f"{file}: {stem}.dora_scale of shape {shape}, a magnitude for each input",
            "a magnitude for each output of the layer",
            FIX,
        )
    return Change(stem, down, up, alpha, None if magnitude is None else magnitude.float())


def _through(mid: torch.Tensor, down: torch.Tensor, name: str, file: Path) -> torch.Tensor:
    """The two first convolutions of a LoCon as one: (r, r', kh, kw) after (r', in, 1, 1)."""
    if mid.ndim != 4 or down.ndim != 4 or down[0, 0].numel() != 1 or mid.shape[1] != len(down):
        _all_used([name], file)
    return torch.einsum("rskl,si->rikl", mid, down.flatten(1))


def _all_used(strange: list[str], file: Path) -> None:
    if strange:
        raise UserError(
            f"{len(strange)} tensors of the LoRA would not be used",
            f"{file}: {listed(strange)}",
            "LoRA or DoRA: lora_down, lora_mid, lora_up, alpha, dora_scale, or their other names",
            FIX,
        )


def _for_this_text(
    changes: Mapping[tuple[str, str], Change], width: int | None, file: Path
) -> None:
    """Refuse a LoRA for a UNet that reads text of another width."""
    for (owner, name), change in changes.items():
        found = change.down.shape[1]
        if owner == "unet" and width and _READS_TEXT.search(name) and found != width:
            raise UserError(
                f"the LoRA is for {_OTHER_MODELS.get(found, 'another model')}",
                f"{file}: {change.stem} reads text of width {found}",
                f"a LoRA for this model, whose UNet reads text of width {width}",
                FIX,
            )


def listed(names: list[str]) -> str:
    """The first of many names, and how many more."""
    more = f", and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
