"""ONNX graphs in the layout of optimum's `ORTStableDiffusionXLPipeline`: files, inputs, outputs.

The UNet is the graph that was measured, Q/DQ nodes and all, its output renamed. The text encoders
and the VAE decoder are exported again: optimum wants every hidden state, and scales the latents.
"""

from __future__ import annotations

import dataclasses
import shutil
import types
from pathlib import Path
from typing import Any

import onnx
import torch

from sdxl.config import graphs
from sdxl.config.choices import Convolutions
from sdxl.config.schema import Config, Format
from sdxl.core.progress import Report
from sdxl.export import modules, onnx_check, onnx_graph
from sdxl.export import onnx as export
from sdxl.export.modules import Exportable
from sdxl.export.pack import layout, schedule
from sdxl.export.qdq.options import options_of
from sdxl.model.components import Source
from sdxl.model.sources import open_source

Facts = dict[str, Any]
Loads = dict[str, Path]
UNET_OUTPUT = "out_sample"


def write(config: Config, loads: Loads, folder: Path, report: Report) -> Facts:
    """Four graphs with their configurations, the tokenizers and the scheduler."""
    source = open_source(config.model, config.seed)
    layout.write(config, source, folder)
    for graph in graphs.GRAPHS:
        report({"phase": f"writing {graph}"})
        place = folder / graph
        place.mkdir()
        if graph == "unet":
            _renamed(loads["unet"], place)
        else:
            network = _exportable(config, source, graph)
            onnx_graph.save(export.build(config, network), place)
            onnx_check.check(place)
            del network
        _config(source, graph, place)
    rows = schedule.plain(config, source)
    return {
        "schedule": rows,
        "names": names(source),
        "quant": config.quant.format.value,
        "products": _products(config),
        "holds": _words(folder),
        "trtexec": _trtexec(folder),
    }


def _products(config: Config) -> bool:
    """Whether all 8-bit layers are matrix products, whose sums ONNX Runtime can make exact."""
    products = options_of(config).convolutions is Convolutions.product
    return products and config.quant.format is Format.int8


def names(source: Source) -> Facts:
    """What the drawing script has to know: outputs by our words, and the scale of latents."""
    layers = [source.configs[name]["num_hidden_layers"] for name in graphs.GRAPHS[:2]]
    vae = source.configs["vae"]
    mean, std = vae.get("latents_mean") or [0.0], vae.get("latents_std") or [1.0]
    return {
        "hidden": [f"hidden_states.{count - 1}" for count in layers],
        "pooled": "text_embeds",
        "noise": UNET_OUTPUT,
        "latents": "latent_sample",
        "image": "sample",
        "scale": [each / vae["scaling_factor"] for each in std],
        "shift": mean,
    }


def _exportable(config: Config, source: Source, graph: str) -> Exportable:
    """A text encoder or the decoder with optimum's outputs."""
    network = modules.prepare(config, source, graph, modules.EXAMPLE_IMAGES)
    module: Any = network.module
    if graph == "vae_decoder":
        module.forward = types.MethodType(_decode, module)
        return dataclasses.replace(network, names=("latent_sample",), outputs=("sample",))
    pooled = graph == "text_encoder_2"
    module.forward = types.MethodType(_encode_projected if pooled else _encode, module)
    states = [f"hidden_states.{layer}" for layer in range(module.config.num_hidden_layers)]
    first = (
        ("text_embeds", "last_hidden_state") if pooled else ("last_hidden_state", "pooler_output")
    )
    return dataclasses.replace(network, outputs=(*first, *states))


def _decode(self: Any, latent_sample: torch.Tensor) -> torch.Tensor:
    return self.decode(latent_sample, return_dict=False)[0]


def _encode(self: Any, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    out = type(self).forward(self, input_ids, output_hidden_states=True)
    return (out.last_hidden_state, out.pooler_output, *out.hidden_states[:-1])


def _encode_projected(self: Any, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    out = type(self).forward(self, input_ids, output_hidden_states=True)
    return (out.text_embeds, out.last_hidden_state, *out.hidden_states[:-1])


def _renamed(artifact: Path, place: Path) -> None:
    """The measured UNet with optimum's name of its output; its weights stay in their files."""
    model = onnx.load(artifact / graphs.MODEL, load_external_data=False)
    (old,) = graphs.OUTPUTS["unet"]
    for node in model.graph.node:
        for each in (node.input, node.output):
            each[:] = [UNET_OUTPUT if name == old else name for name in each]
    model.graph.output[0].name = UNET_OUTPUT
    onnx.save(model, place / graphs.MODEL)
    for name in _files(model):
        shutil.copyfile(artifact / name, place / name)


def _files(model: Any) -> set[str]:
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return {entry.value for entry in entries if entry.key == "location"}


def _config(source: Source, graph: str, place: Path) -> None:
    """The component's own configuration, by which optimum knows its layers and scales."""
    name = "vae" if graph == "vae_decoder" else graph
    module: Any = source.component(name, torch.float32, torch.device("meta"))
    if hasattr(module.config, "to_json_file"):
        module.config.to_json_file(place / "config.json")
    else:
        module.save_config(place)


def _words(folder: Path) -> list[str]:
    """What the UNet's graph computes in which numbers, counted in the graph."""
    model = onnx.load(folder / "unet" / graphs.MODEL, load_external_data=False)
    layers = onnx_check.layer_formats(model)
    counted = ", ".join(f"{count} {kind}" for kind, count in layers.items() if count)
    return [
        f"the UNet's graph, as it was measured: layers {counted}",
        "no VAE encoder: the pipeline draws from text alone",
    ]


def _trtexec(folder: Path) -> list[str]:
    """The line that makes an engine of each graph, for one picture and up to four."""
    lines = []
    for graph in graphs.GRAPHS:
        model = onnx.load(folder / graph / graphs.MODEL, load_external_data=False)
        shapes = [
            f"--{kind}Shapes={','.join(_shape(value, rows) for value in model.graph.input)}"
            for kind, rows in (("min", 1), ("opt", 2), ("max", 8))
        ]
        files = f"--onnx={graph}/{graphs.MODEL} --saveEngine={graph}.plan"
        lines.append(f"trtexec --stronglyTyped {files} {' '.join(shapes)}")
    return lines


def _shape(value: Any, rows: int) -> str:
    """An input with its shape for a number of rows, as `trtexec` takes it."""
    axes = [axis.dim_value or rows for axis in value.type.tensor_type.shape.dim]
    return f"{value.name}:{'x'.join(map(str, axes))}"
