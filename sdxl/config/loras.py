"""`model.lora` in words: files or folders, each with its scale."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.config.choices import Format
from sdxl.core.errors import Problem
from sdxl.core.store import resolve

_SCALED = re.compile(r"(?P<path>.+)@(?P<scale>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_EXAMPLE = "model.lora=[A.safetensors,FOLDER@0.7]"


@dataclass(frozen=True)
class Lora:
    """One LoRA, and how strongly it acts."""

    path: Path
    scale: float


def of(model: Any) -> list[Lora]:
    """Those of `model.lora` in the order in which they are fused."""
    found = []
    for word in _words(model):
        scaled = _SCALED.fullmatch(word)
        path, scale = scaled.groups() if scaled else (word, model.lora_scale)
        found.append(Lora(resolve(path), float(scale)))
    return found


def describe(model: Any, quantized: Format) -> dict[str, Any]:
    """For the record: what is fused, and whether quantization saw the fused weights."""
    fused = [{"name": each.path.name, "scale": each.scale} for each in of(model)]
    into = "the weights" if quantized is Format.none else "the weights before quantization"
    return {"lora": fused, "lora_fused_into": into} if fused else {}


def problems_of(model: Any) -> Iterator[Problem]:
    """A list of other things than paths; a default scale that nobody takes."""
    given = getattr(model, "lora", None)
    words = _words(model)
    if given is not None and not (words and all(isinstance(w, str) and w.strip() for w in words)):
        yield Problem(
            "`model.lora` names files or folders", str(given), "one path, or a list", _EXAMPLE
        )
        return
    if getattr(model, "lora_scale", 1) != 1 and all(map(_SCALED.fullmatch, words)):
        yield Problem(
            "`model.lora_scale` would be ignored",
            f"model.lora={'null' if given is None else given}",
            "a LoRA without a scale of its own (@0.7)",
            "model.lora=FILE.safetensors",
        )


def _words(model: Any) -> list[Any]:
    given = getattr(model, "lora", None)
    return list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
