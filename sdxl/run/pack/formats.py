"""The formats by name: what each takes from the store, what opens it, and how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.config.schema import Config
from sdxl.config.schema import Format as Numbers
from sdxl.core import isolate
from sdxl.model import checkout
from sdxl.run import artifacts, jobs
from sdxl.run.artifacts import Child
from sdxl.run.pack import openvino_ir

Loads = dict[str, Path]
NOISE = "noise.npy"


@dataclass(frozen=True)
class Format:
    """One kind of pack.

    needs: packages that open it; draw: scripts of `assets/pack` that draw with it; use: what its
    README says; graphs: made from ONNX graphs; gpu: draws on a GPU alone; unchecked: why no tool
    can be asked here; library, tags: for the model card.
    """

    needs: tuple[str, ...]
    draw: tuple[str, ...]
    use: str
    graphs: bool = False
    gpu: bool = False
    unchecked: str = ""
    library: str = ""
    tags: tuple[str, ...] = ()


FORMATS = {
    "diffusers": Format(
        ("torch", "diffusers", "transformers", "accelerate"),
        ("draw_diffusers.py",),
        "`DiffusionPipeline.from_pretrained(FOLDER, torch_dtype=...)` opens this folder; `draw.py` "
        "has the `torch_dtype` of each part.",
        library="diffusers",
        tags=("diffusers", "safetensors"),
    ),
    "onnx": Format(
        ("onnxruntime", "numpy", "tokenizers"),
        ("draw_graphs.py", "runtime_onnx.py"),
        "`ORTStableDiffusionXLPipeline.from_pretrained(FOLDER)` of optimum-onnx opens this folder; "
        "`draw.py` needs no more than ONNX Runtime.",
        graphs=True,
        tags=("onnx", "onnxruntime"),
    ),
    "openvino": Format(
        ("openvino", "numpy", "tokenizers"),
        ("draw_graphs.py", "runtime_openvino.py"),
        "`OVStableDiffusionXLPipeline.from_pretrained(FOLDER)` of optimum-intel looks for these "
        "files; `draw.py` needs no more than OpenVINO.",
        graphs=True,
        tags=("openvino",),
    ),
    "tensorrt": Format(
        ("torch", "numpy", "tokenizers"),
        ("draw_graphs.py", "runtime_tensorrt.py"),
        "`runtime.py` runs the engines and needs no more than TensorRT and PyTorch's memory; "
        "`draw.py` has the loop around them. An engine opens on the GPU and in the version that "
        "`pack.json` names, nowhere else.",
        gpu=True,
        tags=("tensorrt",),
    ),
    "comfyui": Format(
        (),
        (),
        "Put the file into `models/checkpoints` of ComfyUI and load it with `Load Checkpoint`; the "
        "record's steps, guidance (`cfg`), size and negative prompt are in `pack.json`.",
        unchecked="ComfyUI is a program, not a package that could be asked",
        tags=("comfyui", "safetensors"),
    ),
}
"""By the word after `--as`."""


def prepare(config: Config, kind: str, child: Child) -> Loads:
    """The artifacts that a pack is made from, found in the store or made."""
    if kind == "tensorrt":
        return artifacts.build(config, child).loads
    quantized = config.quant.format is not Numbers.none
    checkpoint = child(jobs.quantize) if quantized else None
    if not FORMATS[kind].graphs:
        return {"checkpoint": Path(checkpoint["path"])} if checkpoint else {}
    unet = child(jobs.export_graphs, ("unet",))["unet"]
    if checkpoint:
        unet = child(jobs.quantize_graph, _names(unet), _names(checkpoint))
    return {"unet": Path(unet["path"])}


def _names(made: dict[str, Any]) -> tuple[str, str]:
    return made["manifest"]["kind"], made["manifest"]["key"]


def write(
    link: isolate.Link, config: Config, kind: str, loads: Loads, folder: Path, rows: Sequence[int]
) -> dict[str, Any]:
    """In a child: the files of the model, and the noise that pictures of these rows began with.

    Returns what the pack holds, `seeds` of the noise of steps, and the settings that draw.
    """
    checkout.use(config.model)
    import numpy as np

    from sdxl.export.pack import comfyui, diffusers_folder, engines_folder, onnx_folder
    from sdxl.model import sampler, schedulers

    writers = {
        "diffusers": diffusers_folder.write,
        "onnx": onnx_folder.write,
        "openvino": onnx_folder.write,
        "tensorrt": engines_folder.write,
        "comfyui": comfyui.write,
    }
    facts = writers[kind](config, loads, folder, link.report)
    if kind == "openvino":
        link.report({"phase": "converting to OpenVINO's IR"})
        openvino_ir.convert(folder)
        del facts["trtexec"]
    noise = sampler.Noises(config.model, config.seed)
    drawn = noise.of(rows or [0])[: 1 if noise.shared is not None else None]
    np.save(folder.parent / NOISE, drawn.numpy())
    return {**facts, "seeds": [schedulers.seed_of(config.seed, row) for row in rows]}
