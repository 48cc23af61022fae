"""Beside a LoRA's tensors: the file in a folder, and the alphas that PEFT writes apart."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from sdxl.core import json_file, store
from sdxl.core.errors import UserError
from sdxl.model.weight_files import check_safetensors

FIX = "model.lora=null"
_PEFT, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_DIFFUSERS = "pytorch_lora_weights.safetensors"
_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps PEFT's settings in a file's header, by component."""


def existing(path: Path) -> Path:
    """The file, or the one that a folder holds; raises `UserError` if it is not there."""
    if not path.is_dir():
        if not path.is_file():
            raise UserError(
                "`model.lora` is not there", str(path), "a .safetensors file, or its folder", FIX
            )
        return path
    files = sorted(path.glob("*.safetensors"))
    named = [file for file in files if file.name in (_PEFT, _DIFFUSERS)]
    for found in (named, files):
        if len(found) == 1:
            return found[0]
    there = " ".join(sorted(file.name for file in path.iterdir()))
    raise UserError(
        "the folder of `model.lora` does not hold one LoRA",
        f"{path} with {there or 'no files'}",
        f"{_PEFT}, {_DIFFUSERS} or one *.safetensors",
        "model.lora=FILE.safetensors",
    )


def identity(path: Path) -> list[str]:
    """SHA-256 of the LoRA's file, and of PEFT's settings where they lie beside it."""
    file = existing(path)
    beside = _beside(file)
    return [store.sha256(file), *([store.sha256(beside)] if beside else [])]


class Alphas:
    """The alpha of a layer where PEFT's settings say it: in a folder, or in the file's header."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._by_component = _settings(file)

    def of(self, component: str, layer: str, rank: int) -> float | None:
        """What stands for alpha at this rank; None where nobody says it."""
        settings = self._by_component.get(component)
        if settings is None:
            return None
        alpha = settings.get("lora_alpha", rank)
        for pattern, own in (settings.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", layer):  # as PEFT reads it
                alpha = own
                break
        return float(alpha) * (math.sqrt(rank) if settings.get("use_rslora") else 1)


def _settings(file: Path) -> Mapping[str, Any]:
    """PEFT's LoraConfig by component; of a folder for the UNet, whose tensors are named alone."""
    check_safetensors(file, FIX)
    try:
        if beside := _beside(file):
            found = json_file.read_object(beside)
            if found.get("peft_type", "LORA") != "LORA":
                raise ValueError(f"peft_type {found['peft_type']}")
            return {"unet": found}
        with safe_open(file, "pt") as opened:
            header = (opened.metadata() or {}).get(_METADATA)
        by_component: dict[str, Any] = {}
        for key, value in json_file.parse(header or "{}").items():
            component, _, name = key.partition(".")
            by_component.setdefault(component, {})[name] = value
        return by_component
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            "the settings of `model.lora` cannot be read",
            f"{file}: {error}",
            "PEFT's settings of a LoRA",
            FIX,
        ) from error


def _beside(file: Path) -> Path | None:
    config = file.with_name(_PEFT_CONFIG)
    return config if file.name == _PEFT and config.is_file() else None
