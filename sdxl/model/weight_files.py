"""Files of weights: whether one is whole, what it holds, and which of a folder are read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sdxl.core import json_file
from sdxl.core.errors import UserError

_NAME = re.compile(
    r"(?:model|diffusion_pytorch_model)"
    r"(?:\.([a-z]\w*))?(?:-(\d{5})-of-(\d{5}))?(?:\.([a-z]\w*))?\.safetensors"
)
"""Variant, shard, shards, and the variant where diffusers wrote it before 0.28: after the shard."""
_STORED = {"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"}
"""Types of weights as they are computed with, and of the counters beside them."""
_PACKED = re.compile(
    r"\.(absmax|quant_map|nested_absmax|SCB|qweight|qzeros|scales|comfy_quant|weight_scale)$"
    r"|\.quant_state\."
)
"""Names that only packed weights have: bitsandbytes, GPTQ, AWQ, SVDQuant, ComfyUI."""


_LONGEST = 100_000_000
"""Bytes of a header, by safetensors' own limit."""


class Tensor(NamedTuple):
    """A tensor as the header of its file describes it."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """Names of the files that hold one component, and their variant; what is missing of them."""

    names: tuple[str, ...] = ()
    variant: str | None = None
    missing: tuple[str, ...] = ()


def choose(names: Iterable[str], variant: str | None) -> Choice:
    """The files of a component's folder to read: those of the variant, else the plain ones.

    A whole file before shards. No names: the folder has neither.
    """
    sets: dict[tuple[str | None, int], list[str]] = {}
    for name in sorted(names):
        if found := _NAME.fullmatch(name):
            before, _, count, after = found.groups()
            sets.setdefault((before or after, int(count or 0)), []).append(name)
    for wanted in dict.fromkeys((variant, None)):
        counts = sorted(count for kind, count in sets if kind == wanted)
        whole = [count for count in counts if len(sets[wanted, count]) >= (count or 1)]
        if count := next(iter(whole or counts), None):
            return Choice(tuple(sets[wanted, count]), wanted, _absent(sets[wanted, count], count))
        if count == 0:
            return Choice(tuple(sets[wanted, 0]), wanted)
    return Choice()


def variants(names: Iterable[str]) -> list[str]:
    """The variants, other than the plain one, that a folder has files of."""
    found = [_NAME.fullmatch(name) for name in names]
    return sorted({match[1] or match[4] for match in found if match and (match[1] or match[4])})


def _absent(names: list[str], count: int) -> tuple[str, ...]:
    """Shards that the names of the others tell of."""
    first = re.sub(r"-\d{5}-of-", "-{:05d}-of-", names[0])
    return tuple(each for n in range(count) if (each := first.format(n + 1)) not in names)


def other_kinds(folder: Path) -> str:
    """Weights in forms that are not read, said in words; empty if there are none."""
    found = sorted(file.name for file in folder.iterdir() if file.is_file())
    said = {
        "pickled, which is never read": [n for n in found if n.endswith((".bin", ".pt", ".ckpt"))],
        "GGUF, packed for another program": [n for n in found if n.endswith(".gguf")],
        "Flax's or ONNX's": [n for n in found if n.endswith((".msgpack", ".onnx"))],
    }
    return "; ".join(f"{', '.join(names[:3])} is {kind}" for kind, names in said.items() if names)


def header(file: Path, fix: str) -> dict[str, Tensor]:
    """What the file holds, by name; raises `UserError` if it is damaged or packed."""
    check_safetensors(file, fix)
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entries = json_file.parse(stream.read(length))
    found = {
        name: Tensor(entry["dtype"], tuple(entry["shape"]))
        for name, entry in entries.items()
        if name != "__metadata__"
    }
    _check_stored(file, found)
    return found


def metadata(file: Path) -> dict[str, str]:
    """What the file says of itself in its header."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        found = json_file.parse(stream.read(length)).get("__metadata__") or {}
    return {str(key): str(value) for key, value in found.items()}


def _check_stored(file: Path, tensors: dict[str, Tensor]) -> None:
    """Refuse weights that would have to be unpacked, by the name of what they are."""
    packed = [name for name in tensors if _PACKED.search(name)]
    types = sorted({t.dtype for t in tensors.values() if math.prod(t.shape) > 1} - _STORED)
    if packed or types:
        what = "bitsandbytes'" if any(_is_bitsandbytes(name) for name in packed) else "a packer's"
        raise UserError(
            f"{file} holds packed weights ({what if packed else ', '.join(types)})",
            ", ".join(packed[:3]) or f"tensors of {', '.join(types)}",
            "weights in fp32, fp16 or bf16; this program packs by itself: quant=int8, quant=fp8",
            "model.path=FOLDER   # the model before it was packed",
        )


def _is_bitsandbytes(name: str) -> bool:
    return name.endswith((".absmax", ".quant_map", ".SCB")) or ".quant_state." in name


def check_safetensors(file: Path, fix: str) -> None:
    """Raise `UserError`, with the line `fix`, for a damaged file, or one of another length."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            return
    except (SafetensorError, OSError) as error:
        size, wanted = file.stat().st_size, _whole_size(file)
        raise UserError(
            f"{file} is truncated or not safetensors: {error}",
            f"{size:,} bytes",
            f"{wanted:,} bytes" if wanted else "a whole safetensors file",
            fix,
        ) from error


def _whole_size(file: Path) -> int | None:
    """Bytes that the file should have by its own header; None if that cannot be read."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json_file.parse(stream.read(min(length, _LONGEST, file.stat().st_size)))
        tensors = (entry for name, entry in header.items() if name != "__metadata__")
        return 8 + length + max(entry["data_offsets"][1] for entry in tensors)
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None
