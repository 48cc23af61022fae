"""One `.safetensors` in SDXL's original key layout, with 8-bit Linears as ComfyUI keeps them.

A quantized Linear `NAME` has `NAME.weight` (I8 or F8_E4M3), `NAME.weight_scale` and
`NAME.comfy_quant`, JSON in bytes: INT8 with a scale for each output row, whose inputs ComfyUI
scales as they come; FP8 with one scale for weights and one for inputs. Nothing there multiplies
inputs by SmoothQuant's factors: smoothed Linears are written as the weights that they amount to.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sdxl.config.schema import Config, DType, Format
from sdxl.core.progress import Report
from sdxl.model import codes, original, schedulers
from sdxl.model.checkpoint import Checkpoint
from sdxl.model.components import COMPONENTS, Source, torch_dtype
from sdxl.model.sources import open_source

CPU = torch.device("cpu")
INT8, FP8 = "int8_tensorwise", "float8_e4m3fn"
"""What ComfyUI calls the two."""
_ROWS = (Format.int8, Format.int8_weight_only)

Tensors = dict[str, torch.Tensor]


def write(config: Config, loads: dict[str, Path], folder: Path, report: Report) -> dict[str, Any]:
    """The file; returns what the pack holds."""
    source = open_source(config.model, config.seed)
    whole, counts = _marks(config, source), Counter[str]()
    for name in COMPONENTS:
        report({"phase": f"converting {name}"})
        dtype = _dtype(config, name)
        if name == "unet" and "checkpoint" in loads:
            whole |= unet(Checkpoint(loads["checkpoint"]), dtype, source.configs[name], counts)
            continue
        weights = source.component(name, dtype, CPU).state_dict()
        whole |= original.from_diffusers(name, weights, source.configs[name])
    kind = "" if config.quant.format is Format.none else f"_{config.quant.format.value}"
    file = folder / f"{config.model.name}{kind}.safetensors"
    save_file({key: each.contiguous() for key, each in whole.items()}, file, {"format": "pt"})
    told = [f"{count} {what}" for what, count in counts.items()]
    plain = str(_dtype(config, "unet")).removeprefix("torch.")
    return {
        "holds": [
            f"`{file.name}`, for `models/checkpoints` of ComfyUI",
            *told,
            f"the UNet's other weights in {plain}",
        ]
    }


def unet(
    stored: Checkpoint, dtype: torch.dtype, config: dict[str, Any], counts: Counter[str]
) -> Tensors:
    """A quantized UNet's tensors under their original names; `counts` what became of its layers."""
    kept = {name for name in stored.layers if _carried(stored, name)}
    plain = dict(stored.state(dtype, skip=kept))
    for name, layer in stored.layers.items():
        if name in kept:
            counts[f"Linear layers with {layer.format.value} weights"] += 1
        elif layer.kind != "attention":
            factors = stored.get(name, "pre_quant_scale")
            if factors is not None:  # inputs times factors, put into the weight
                whole = stored.weight(name, torch.float32) * factors.float()
                plain[f"{name}.weight"] = whole.to(dtype)
            smoothed = "smoothed " if factors is not None else ""
            counts[f"{smoothed}{layer.kind} layers with the values of their 8-bit weights"] += 1
    plain |= {f"{name}.weight": stored.tensor(f"{name}.weight") for name in kept}
    found = original.from_diffusers("unet", plain, config)
    for name in kept:
        place = original.from_diffusers("unet", {f"{name}.weight": torch.empty(0)}, config)
        module = next(iter(place)).removesuffix(".weight")
        found |= {f"{module}.{part}": each for part, each in _parts(stored, name).items()}
    return found


def _carried(stored: Checkpoint, name: str) -> bool:
    """Whether ComfyUI has a form for this layer's numbers."""
    layer = stored.layers[name]
    smoothed = f"{name}.pre_quant_scale" in stored.names
    return layer.kind == "linear" and layer.format in (*_ROWS, Format.fp8) and not smoothed


def _parts(stored: Checkpoint, name: str) -> Tensors:
    """A layer's scales, and the words that say what they are."""
    amax = stored.tensor(f"{name}.weight_amax")
    if stored.layers[name].format is Format.fp8:
        inputs = stored.tensor(f"{name}.input_amax")
        scales = {
            "weight_scale": 1 / codes.fp8_per_unit(amax).reshape(()),
            "input_scale": 1 / codes.fp8_per_unit(inputs).reshape(()),
        }
        return {**scales, "comfy_quant": _words({"format": FP8})}
    scale = codes.int8_unit(amax).reshape(-1, 1)
    return {"weight_scale": scale, "comfy_quant": _words({"format": INT8})}


def _words(told: dict[str, str]) -> torch.Tensor:
    return torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)


def _dtype(config: Config, name: str) -> torch.dtype:
    """16 bits, the record's own where it has some; the VAE as it was measured."""
    precision = config.precision
    if name == "vae":
        return torch_dtype(precision.vae)
    wanted = precision.unet if name == "unet" else precision.text_encoder
    return torch_dtype(DType.fp16 if wanted is DType.fp32 else wanted)


def _marks(config: Config, source: Source) -> Tensors:
    """Empty tensors whose names tell ComfyUI what is predicted, and of the noise schedule."""
    made = schedulers.schedule_of(config.scheduler, config.model.steps, source).scheduler.config
    marks = {
        "v_pred": made.get("prediction_type") == "v_prediction",
        "ztsnr": bool(made.get("rescale_betas_zero_snr")),
    }
    return {name: torch.empty(0) for name, there in marks.items() if there}
