"""The compact checkpoint: a quantized UNet whose file really holds 8- or 4-bit weights.

`unet.safetensors` has every tensor of the UNet; of a quantized layer `NAME` it has
`NAME.weight` (int8, float8_e4m3fn, or uint8 with two INT4 codes a byte), `NAME.weight_amax`,
`NAME.input_amax` and, where smoothed, `NAME.pre_quant_scale` (inputs are multiplied by it, the
weight has been divided); of an attention layer `NAME.{q,k,v,softmax}_amax`. `layers.json` names
the layers. The torch backend, the ONNX export and the reports read this; none needs ModelOpt.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sdxl.config.schema import Format
from sdxl.core import json_file
from sdxl.core.errors import SdxlError
from sdxl.model import codes

WEIGHTS = "unet.safetensors"
LAYERS = "layers.json"
TUNED = "tuned.json"
"""Beside a checkpoint that `train=qat` wrote: the key of the one it started from."""
VERSION = 1
ATTENTION_PARTS = ("q", "k", "v", "softmax")


@dataclass(frozen=True)
class StoredLayer:
    """One quantized layer: its kind (conv, linear, attention) and its number format."""

    name: str
    kind: str
    format: Format
    block_size: int = 0  # INT4 only
    in_features: int = 0  # INT4 only: the width before padding

    @property
    def weight_only(self) -> bool:
        """Inputs stay as they are."""
        return self.format.weight_only


def encode(layer: StoredLayer, weight: torch.Tensor, amax: torch.Tensor) -> torch.Tensor:
    """The codes of a weight; `amax` as stored (per output channel, per tensor, or per block)."""
    if layer.format is Format.fp8:
        return codes.fp8_codes(weight, amax)
    if layer.format is Format.int4_weight_only:
        blocks = codes.to_blocks(weight, layer.block_size)
        return codes.pack_nibbles(codes.integer_codes(blocks, amax, bits=4))
    return codes.integer_codes(weight, amax)


def decode(
    layer: StoredLayer, stored: torch.Tensor, amax: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The weight that the codes stand for."""
    if layer.format is Format.fp8:
        return codes.from_fp8(stored, amax).to(dtype)
    if layer.format is Format.int4_weight_only:
        blocks = codes.from_integer(codes.unpack_nibbles(stored), amax, bits=4)
        return codes.from_blocks(blocks, layer.in_features).to(dtype)
    return codes.from_integer(stored, amax).to(dtype)


def write(folder: Path, layers: Iterable[StoredLayer], tensors: dict[str, torch.Tensor]) -> None:
    """Write both files."""
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / WEIGHTS)
    listed = [{**asdict(layer), "format": layer.format.value} for layer in layers]
    text = json.dumps({"version": VERSION, "layers": listed}, indent=1)
    (folder / LAYERS).write_text(text + "\n")


def _layer(stored: dict[str, Any]) -> StoredLayer:
    """A layer from its entry; raises `KeyError`, `TypeError` or `ValueError` for a damaged one."""
    found = StoredLayer(**{**stored, "format": Format(stored["format"])})
    texts, numbers = (found.name, found.kind), (found.block_size, found.in_features)
    whole = all(isinstance(each, str) for each in texts) and all(type(n) is int for n in numbers)
    if not whole or min(numbers) < 0:
        raise ValueError(f"the entry of {found.name} is damaged")
    if found.format is Format.int4_weight_only and not all(numbers):
        raise ValueError(f"the entry of {found.name} lacks its widths")
    return found


def _check_complete(layers: Iterable[StoredLayer], names: Container[str]) -> None:
    for layer in layers:
        for field in () if layer.kind == "attention" else ("weight", "weight_amax"):
            if f"{layer.name}.{field}" not in names:
                raise ValueError(f"{WEIGHTS} lacks {layer.name}.{field}")


class Checkpoint:
    """A compact checkpoint opened for reading, one tensor at a time."""

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            listed = json_file.read_object(folder / LAYERS)
            self.layers = {each["name"]: _layer(each) for each in listed["layers"]}
            self._file: Any = safe_open(folder / WEIGHTS, "pt")
            self.names: set[str] = set(self._file.keys())
            _check_complete(self.layers.values(), self.names)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise SdxlError(
                f"{folder} is not a quantized checkpoint", f"{type(error).__name__}: {error}",
                f"{WEIGHTS} and {LAYERS}", f"rm -r {folder}   # it is built again when needed",
            ) from error  # fmt: skip
        self.folder = folder
        self._weights = folder / WEIGHTS

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor as stored."""
        return self._file.get_tensor(name)

    @cached_property
    def _places(self) -> dict[str, Any]:
        """The file's own header (safetensors: its length in 8 bytes, then JSON)."""
        with self._weights.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        ranges = {name: entry["data_offsets"] for name, entry in header.items()}
        return {name: (8 + length + begin, end - begin) for name, (begin, end) in ranges.items()}

    def place(self, name: str) -> tuple[int, int]:
        """(offset, length) in bytes of a tensor in `unet.safetensors`."""
        return self._places[name]

    def get(self, layer: str, field: str) -> torch.Tensor | None:
        """`input_amax`, `pre_quant_scale`, ... of a layer, if it has one."""
        name = f"{layer}.{field}"
        return self.tensor(name) if name in self.names else None

    def weight(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """The dequantized weight of a quantized layer."""
        amax = self.tensor(f"{name}.weight_amax")
        return decode(self.layers[name], self.tensor(f"{name}.weight"), amax, dtype)

    def state(
        self, dtype: torch.dtype, skip: Container[str] = ()
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) of an ordinary UNet state dict, weights dequantized.

        Weights of the layers in `skip` are left out.
        """
        extra = {
            f"{name}.{field}"
            for name in self.layers
            for field in (
                "weight_amax", "input_amax", "pre_quant_scale",
                *(f"{part}_amax" for part in ATTENTION_PARTS),
            )
        }  # fmt: skip
        for name in sorted(self.names - extra):
            layer, _, field = name.rpartition(".")
            if field == "weight" and layer in self.layers:
                if layer not in skip:
                    yield name, self.weight(layer, dtype)
            else:
                yield name, self.tensor(name).to(dtype)
