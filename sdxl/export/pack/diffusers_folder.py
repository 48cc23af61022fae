"""A folder that plain `DiffusionPipeline.from_pretrained` opens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sdxl.config.schema import Config, Format
from sdxl.core import json_file
from sdxl.core.progress import Report
from sdxl.export.pack import layout, torchao
from sdxl.model.checkpoint import Checkpoint
from sdxl.model.components import COMPONENTS, Source, torch_dtype
from sdxl.model.sources import open_source

CPU = torch.device("cpu")
Facts = dict[str, Any]
Loads = dict[str, Path]
"""By name: artifacts in the store."""


def write(config: Config, loads: Loads, folder: Path, report: Report) -> Facts:
    """All parts of the pipeline, one network in memory at a time; returns what the UNet holds."""
    source, checkpoint = open_source(config.model, config.seed), loads.get("checkpoint")
    unet = config.precision.unet.value
    facts: Facts = {"holds": [f"the UNet's weights in {unet}; LoRAs, if any, are fused"]}
    layout.write(config, source, folder)
    for name in COMPONENTS:
        report({"phase": f"writing {name}"})
        if name == "unet" and checkpoint:
            facts |= _quantized(source, checkpoint, _dtype(config, name), folder / name)
            continue
        module: Any = source.component(name, _dtype(config, name), CPU)
        module.save_pretrained(folder / name)
    dtypes = {name: str(_dtype(config, name)).removeprefix("torch.") for name in COMPONENTS}
    return {**facts, "dtypes": dtypes}


def _dtype(config: Config, name: str) -> torch.dtype:
    precision = config.precision
    chosen = {"unet": precision.unet, "vae": precision.vae}
    return torch_dtype(chosen.get(name, precision.text_encoder))


def _quantized(source: Source, checkpoint: Path, dtype: torch.dtype, folder: Path) -> Facts:
    """The UNet with torchao's tensors, and the configuration that names its quantizer."""
    stored = Checkpoint(checkpoint)
    shapes: Any = source.component("unet", dtype, torch.device("meta"))
    shapes.save_config(folder)
    linear = {name: each for name, each in stored.layers.items() if each.kind == "linear"}
    if linear:
        told = json_file.read_object(folder / "config.json")
        told["quantization_config"] = torchao.config(linear)
        (folder / "config.json").write_text(json.dumps(told, indent=2) + "\n")
    tensors, header = torchao.flatten(stored, dtype)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "diffusion_pytorch_model.safetensors", header)
    return {
        "also_needs": ["torchao"] if linear else [],
        "holds": _words(stored, linear, str(dtype).removeprefix("torch.")),
    }


def _words(stored: Checkpoint, linear: Container[str], dtype: str) -> list[str]:
    """What became of each quantized layer."""
    others = [name for name in stored.layers if name not in linear]
    counts = Counter(each.format for name, each in stored.layers.items() if name in linear)
    inputs = {
        Format.int8: "computed with integers, inputs by their measured scales",
        Format.fp8: "inputs as they are: torchao reads no static scales of FP8",
    }
    said = [
        f"{count} Linear layers of the UNet with {kind.value} weights"
        f" ({inputs.get(kind, 'inputs as they are')})"
        for kind, count in counts.items()
    ]
    if others:
        said.append(
            f"{len(others)} convolutions with the values of their 8-bit weights, in {dtype}; "
            "inputs are not rounded: torchao has Linears only"
        )
    return [*said, f"the UNet's other weights in {dtype}"]
