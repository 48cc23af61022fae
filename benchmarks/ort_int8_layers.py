"""INT8 in ONNX Runtime at SDXL's real shapes: which layout runs on integers, and how fast.

    python benchmarks/ort_int8_layers.py

Each layer is a graph of its own, quantized by the project's own graph edit. Times are CPU
milliseconds of one thread, the fastest of `--runs`, so that a busy machine disturbs them little.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from sdxl.config import graphs
from sdxl.config.schema import Format
from sdxl.export.qdq import artifact
from sdxl.export.qdq.graph import SCOPES
from sdxl.export.qdq.options import ONNX_RUNTIME, TENSORRT
from sdxl.model import checkpoint
from sdxl.model.checkpoint import StoredLayer


@dataclass(frozen=True)
class Layer:
    """A layer of SDXL's UNet at 1024 x 1024; `side`: pixels of a convolution's input."""

    title: str
    inputs: int
    outputs: int
    tokens: int = 0
    side: int = 0
    copies: int = 1  # that read the same input


LAYERS = (
    Layer("ff.net.0.proj, 1,024 tokens", 1280, 10240, tokens=1024),
    Layer("ff.net.2, 1,024 tokens", 5120, 1280, tokens=1024),
    Layer("to_q, 1,024 tokens", 1280, 1280, tokens=1024),
    Layer("to_q, to_k, to_v, 1,024 tokens", 1280, 1280, tokens=1024, copies=3),
    Layer("3 x 3 conv, 32 x 32", 1280, 1280, side=32),
    Layer("3 x 3 conv, 64 x 64", 640, 640, side=64),
    Layer("3 x 3 conv, 128 x 128", 320, 320, side=128),
)


def main() -> None:
    """Print a table: layer, layout, milliseconds, speed-up over fp32, kernels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    print(f"ONNX Runtime {ort.__version__}, one thread, CPU ms, fastest of {runs}")
    for layer in LAYERS:
        with tempfile.TemporaryDirectory() as place:
            measure(layer, Path(place), runs)


def measure(layer: Layer, place: Path, runs: int) -> None:
    """All layouts of one layer."""
    random = np.random.default_rng(0)
    float_graph(layer, place, random)
    stored = place / "checkpoint"
    stored.mkdir()
    write_checkpoint(layer, stored, random, equal=False)
    variants = {"fp32": place}
    for name, options in (("as for TensorRT", TENSORRT), ("for ONNX Runtime", ONNX_RUNTIME)):
        variants[name] = place / name
        variants[name].mkdir()
        artifact.quantize(place, stored, variants[name], options)
    if layer.copies > 1:
        one = place / "one"
        one.mkdir()
        write_checkpoint(layer, one, random, equal=True)
        variants["the same, one scale"] = place / "shared"
        variants["the same, one scale"].mkdir()
        artifact.quantize(place, one, variants["the same, one scale"], ONNX_RUNTIME)
    base = 0.0
    for name, folder in variants.items():
        ms, kernels = run(folder, layer, runs)
        base = base or ms
        spent = ", ".join(f"{kernel} {share:.0%}" for kernel, share in kernels[:3])
        print(f"{layer.title:32} {name:20} {ms:9.1f} ms {base / ms:6.2f} x   {spent}", flush=True)


def float_graph(layer: Layer, place: Path, random: np.random.Generator) -> None:
    """The unquantized layer as torch's exporter writes it."""
    conv = layer.side > 0
    nodes, values, outputs = [], [], []
    for name in names(layer):
        shape = (layer.outputs, layer.inputs, 3, 3) if conv else (layer.inputs, layer.outputs)
        weight = random.standard_normal(shape).astype(np.float32) / layer.inputs**0.5
        bias = random.standard_normal(layer.outputs).astype(np.float32)
        values += [numpy_helper.from_array(weight, f"{name}.weight"),
                   numpy_helper.from_array(bias, f"{name}.bias")]  # fmt: skip
        if conv:
            made = [helper.make_node(
                "Conv", ["x", f"{name}.weight", f"{name}.bias"], [f"{name}/y"],
                kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1], group=1,
                dilations=[1, 1],
            )]  # fmt: skip
        else:
            made = [
                helper.make_node("MatMul", ["x", f"{name}.weight"], [f"{name}/product"]),
                helper.make_node("Add", [f"{name}/product", f"{name}.bias"], [f"{name}/y"]),
            ]
        for node in made:
            node.metadata_props.add(key=SCOPES, value=str(["", name, "op"]))
        nodes += made
        made_shape = shape_of(layer)
        made_shape[1 if conv else 2] = layer.outputs
        outputs.append(helper.make_tensor_value_info(f"{name}/y", TensorProto.FLOAT, made_shape))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_of(layer))
    graph = helper.make_graph(nodes, "layer", [x], outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.save(model, place / graphs.MODEL, save_as_external_data=True, location=graphs.WEIGHTS)


def write_checkpoint(layer: Layer, place: Path, random: np.random.Generator, equal: bool) -> None:
    """Codes and scales of the layer; `equal`: copies have one input scale and one smoothing."""
    layers, tensors = [], {}
    conv = layer.side > 0
    for number, name in enumerate(names(layer)):
        stored = StoredLayer(name, "conv" if conv else "linear", Format.int8)
        shape = (layer.outputs, layer.inputs, *((3, 3) if conv else ()))
        weight = torch.from_numpy(random.standard_normal(shape).astype(np.float32))
        amax = weight.abs().flatten(1).amax(1).reshape(-1, *(1 for _ in shape[1:]))
        tensors[f"{name}.weight"] = checkpoint.encode(stored, weight, amax)
        tensors[f"{name}.weight_amax"] = amax
        tensors[f"{name}.input_amax"] = torch.tensor(4.0 if equal else 4.0 + number)
        if not conv:
            tensors[f"{name}.pre_quant_scale"] = torch.full((layer.inputs,), 0.9)
        layers.append(stored)
    checkpoint.write(place, layers, tensors)


def run(folder: Path, layer: Layer, runs: int) -> tuple[float, list[tuple[str, float]]]:
    """Fastest CPU milliseconds of a run, and the kernels' shares of the wall time."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(
        str(folder / graphs.MODEL), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": np.random.default_rng(1).standard_normal(shape_of(layer)).astype(np.float32)}
    session.run(None, feed)
    spent = []
    for _ in range(runs):
        began = time.thread_time()
        session.run(None, feed)
        spent.append(1e3 * (time.thread_time() - began))
    kernels: Counter[str] = Counter()
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kernels[event["args"]["op_name"]] += event["dur"]
    total = sum(kernels.values())
    return min(spent), [(name, us / total) for name, us in kernels.most_common()]


def names(layer: Layer) -> list[str]:
    """Module paths of the copies."""
    return [f"block.layer_{number}" for number in range(layer.copies)]


def shape_of(layer: Layer) -> list[int]:
    """Of the input of one UNet row."""
    side = layer.side
    return [1, layer.inputs, side, side] if side else [1, layer.tokens, layer.inputs]


if __name__ == "__main__":
    main()
