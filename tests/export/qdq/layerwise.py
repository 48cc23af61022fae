"""A quantized graph in ONNX Runtime beside the simulated torch layers, on the same inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch.nn import functional

from sdxl.backends.ort.session import EXACT
from sdxl.config import graphs
from sdxl.config.schema import Format
from sdxl.export.qdq.graph import Graph
from sdxl.model import codes
from sdxl.model.checkpoint import Checkpoint, StoredLayer

PLAIN = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
ALL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
NAMES = graphs.INPUTS["unet"]


def load(folder: Path) -> onnx.ModelProto:
    """A graph without its weights."""
    return onnx.load(folder / graphs.MODEL, load_external_data=False)


@dataclass
class Difference:
    """Of one layer: codes of the input that differ and by how much, outputs in relative terms."""

    codes: int
    different: int
    largest_step: float
    output: float


def session(folder: Path, taps: list[str] = (), level=ALL, profile: str = ""):
    """A session on one thread whose outputs are `taps`, if any."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = level
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    model = load(folder)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    kernels = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    if "DequantizeLinear" not in map(makers.get, kernels):
        options.add_session_config_entry(*EXACT)  # as `backend=ort`, where it breaks nothing
    if taps:
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in taps)
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def differences(folder: Path, checkpoint: Path, inputs, level=ALL) -> dict[str, Difference]:
    """What each weighted layer's graph makes of the input that really reaches it."""
    stored = Checkpoint(checkpoint)
    model = load(folder)
    graph = Graph(model)
    places = {}
    for name, layer in stored.layers.items():
        if layer.kind != "attention":
            places[name] = _place(graph, name)
    taps = sorted({tap for place in places.values() for tap in place if tap})
    found = dict(zip(taps, session(folder, taps, level).run(taps, _feed(inputs)),
                     strict=True))  # fmt: skip
    return {
        name: _difference(stored, stored.layers[name], *(found.get(tap) for tap in place))
        for name, place in places.items()
    }


def _feed(inputs):
    return {name: tensor.numpy() for name, tensor in zip(NAMES, inputs, strict=True)}


def _place(graph, name):
    """Tensors: the layer's float input, its codes (None if weight-only), its output."""
    ours, makers = graph.of_module[name], graph.makers
    quantizes = [node for node in ours if node.op_type == "QuantizeLinear"]
    last = ours[-1].output[0]
    if quantizes:
        node = quantizes[0]
    else:  # shares a chain with a layer before it, or is weight-only
        reader = next(n for n in ours if n.op_type in ("Conv", "Gemm", "MatMul"))
        maker = makers.get(reader.input[0])
        if maker is None or maker.op_type != "DequantizeLinear":
            return reader.input[0], None, last
        node = makers[maker.input[0]]
    source = node.input[0]
    maker = makers.get(source)
    if maker is not None and maker.op_type == "Mul" and maker.name.endswith("input_smoothed"):
        source = maker.input[0]
    return source, node.output[0], last


def _difference(stored: Checkpoint, layer: StoredLayer, source, ours, output) -> Difference:
    x = torch.from_numpy(np.array(source))
    count = different = 0
    largest = 0.0
    if ours is not None:
        factors, amax = stored.get(layer.name, "pre_quant_scale"), None
        x = x if factors is None else x * factors
        amax = stored.tensor(f"{layer.name}.input_amax")
        fp8 = layer.format is Format.fp8
        wanted = (codes.fp8_codes if fp8 else codes.integer_codes)(x, amax).float()
        got = _plain(ours, fp8)
        step = (got - wanted).abs()
        count, different = step.numel(), int((step > 0).sum())
        # A step of E4M3 is an eighth of the number's power of two.
        size = torch.exp2(torch.floor(torch.log2(wanted.abs().clamp(min=2**-6)))) / 8 if fp8 else 1
        largest = float((step / size).max())
        x = (codes.from_fp8 if fp8 else codes.from_integer)(got, amax)
    weight = stored.weight(layer.name, torch.float32)
    bias = stored.get(layer.name, "bias")
    if layer.kind == "conv":
        stride = 2 if "downsamplers" in layer.name else 1
        want = functional.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)
    else:
        want = functional.linear(x, weight, bias)
    got = torch.from_numpy(np.array(output)).reshape(want.shape)
    return Difference(count, different, largest, float((got - want).norm() / want.norm()))


def _plain(array, fp8: bool) -> torch.Tensor:
    """Codes as plain numbers; uint8 is shifted by 128."""
    if fp8:
        return torch.from_numpy(np.array(array).view(np.uint8)).view(torch.float8_e4m3fn).float()
    if array.dtype == np.uint8:
        return torch.from_numpy(array.astype(np.float32)) - 128
    return torch.from_numpy(array.astype(np.float32))
