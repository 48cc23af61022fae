"""8-bit Linears as torchao's tensors in a `.safetensors`, which diffusers' own quantizer reads.

torchao (0.18) has every number of ours for a Linear: codes, scale by output channel, one static
scale of the input, SmoothQuant's factors; INT8 is computed with integers. Of FP8 it has the
weights: its static input scales are not read. Its files are plain tensors and their description
in the header; none of it needs torchao to be written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from sdxl.config.schema import Format
from sdxl.export.pack.carried import TORCHAO
from sdxl.model import codes
from sdxl.model.checkpoint import Checkpoint, StoredLayer

_VERSIONS = {"Int8StaticActivationInt8WeightConfig": 1}
_FLAT_INPUT = ("time_embedding", "add_embedding", "time_emb_proj")
"""Parts of the names of Linears whose inputs are matrices; others take (rows, tokens, width)."""

Tensors = dict[str, torch.Tensor]
Described = Mapping[str, Any]


def config(layers: Mapping[str, StoredLayer]) -> Described:
    """The `quantization_config` of the UNet's config.json."""
    used = {TORCHAO[layer.format] for layer in layers.values()}
    kind = next(name for name in TORCHAO.values() if name in used)
    entry = {"_type": kind, "_version": _VERSIONS.get(kind, 2), "_data": {}}
    return {"quant_method": "torchao", "quant_type": {"default": entry}}


def flatten(stored: Checkpoint, dtype: torch.dtype) -> tuple[Tensors, dict[str, str]]:
    """A checkpoint's tensors, and the header that says what they are.

    Linears keep their codes; of other quantized layers the values of the codes, in `dtype`.
    """
    linear = {name for name, layer in stored.layers.items() if layer.kind == "linear"}
    tensors: Tensors = {}
    described: dict[str, str] = {}
    for name, tensor in stored.state(dtype, skip=linear):
        tensors[name] = tensor
        described[name] = json.dumps({"_type": "Tensor"})
    for name in sorted(linear):
        parts = _parts(stored, name, dtype)
        tensors |= {f"{name}._weight_{part}": tensor for part, tensor in parts.items()}
        described[f"{name}.weight"] = json.dumps(_described(stored.layers[name], parts, dtype))
    return tensors, {**described, "tensor_names": json.dumps(sorted(described)), "format": "pt"}


def _parts(stored: Checkpoint, name: str, dtype: torch.dtype) -> Tensors:
    """A layer's tensors under torchao's names."""
    layer, amax = stored.layers[name], stored.tensor(f"{name}.weight_amax")
    parts = {"qdata": stored.tensor(f"{name}.weight")}
    if layer.format is Format.fp8:
        return {**parts, "scale": (1 / codes.fp8_per_unit(amax)).reshape(1, 1)}
    parts["scale"] = codes.int8_unit(amax).reshape(-1, 1)
    if layer.format is Format.int8:
        unit = codes.int8_unit(stored.tensor(f"{name}.input_amax"))
        flat = any(part in name for part in _FLAT_INPUT)
        parts["act_quant_scale"] = unit.reshape((1, 1) if flat else (1, 1, 1))
        if (factors := stored.get(name, "pre_quant_scale")) is not None:
            parts["act_pre_scale"] = factors.to(dtype)
    return parts


def _described(layer: StoredLayer, parts: Tensors, dtype: torch.dtype) -> Described:
    """torchao's words for a tensor of its own."""
    shape = list(parts["qdata"].shape)
    number = {"_type": "torch.dtype", "_data": str(dtype).removeprefix("torch.")}
    data: Described
    if layer.format is Format.fp8:
        kind = "Float8Tensor"
        preference = {"_type": "KernelPreference", "_data": "TORCH"}
        data = {
            "block_size": shape,
            "mm_config": None,
            "act_quant_kwargs": None,
            "kernel_preference": preference,
            "dtype": number,
        }
    else:
        kind = "Int8Tensor"
        inputs = {
            "granularity": {"_type": "PerTensor", "_data": {}},
            "mapping_type": {"_type": "MappingType", "_data": "SYMMETRIC"},
            "reduce_range": False,
        }
        static = {"_type": "QuantizeTensorToInt8Kwargs", "_data": inputs}
        data = {
            "act_quant_kwargs": static if layer.format is Format.int8 else None,
            "reduce_range": False,
            "block_size": [1, shape[1]],
            "dtype": number,
        }
    return {"_type": kind, "_data": data, "_tensor_data_names": sorted(parts)}
