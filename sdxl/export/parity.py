"""A graph beside the network it came from: the outputs, and every layer, on the same inputs."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from sdxl.config import graphs
from sdxl.config.schema import Config, DType
from sdxl.core.errors import SdxlError
from sdxl.export import modules
from sdxl.export.modules import Exportable
from sdxl.model.sources import open_source

LAYERS = (nn.Conv2d, nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.Embedding)
TOLERANCE = {DType.fp32: 1e-4, DType.fp16: 2e-2}
"""Largest deviation, as a share of the output's largest value. In fp16 torch rounds after each
operator and ONNX Runtime on a CPU computes in fp32 between casts."""
AT_ONCE = 64
"""Layers compared in one run: all their outputs are in memory."""
SCOPES = "pkg.torch.onnx.name_scopes"


def compare(config: Config, graph: str, folder: Path) -> dict[str, Any]:
    """Largest relative deviations from torch: `outputs`, `layers` counted, and the `worst` three.

    Raises `SdxlError` beyond `TOLERANCE`, or where a layer of the network is not in the graph.
    """
    dtype = graphs.dtype_of(config, graph)
    if dtype not in TOLERANCE:
        return {"skipped": f"ONNX Runtime has no {dtype.value} kernels on a CPU"}
    network = modules.prepare(config, open_source(config.model, config.seed), graph, images=1)
    path = folder / graphs.MODEL
    outputs = {
        name: deviation(ours, theirs.numpy())
        for name, ours, theirs in zip(
            network.outputs, run(path, network, []), network.run(), strict=True
        )
    }
    layers = dict(compare_layers(path, network))
    worst = sorted(layers.items(), key=lambda each: -each[1])[:3]
    found = {
        "outputs": outputs,
        "layers": len(layers),
        "worst": [{"layer": name, "deviation": share} for name, share in worst],
        "tolerance": TOLERANCE[dtype],
    }
    largest = max([*outputs.values(), *layers.values()])
    if not largest <= TOLERANCE[dtype]:
        raise SdxlError(
            f"the graph of {graph} does not compute what torch does",
            f"largest deviation {largest:.2e}; {found}",
            f"at most {TOLERANCE[dtype]:.0e} of the largest value",
        )
    return found


def compare_layers(path: Path, network: Exportable) -> Iterator[tuple[str, float]]:
    """(module path, relative deviation) of every layer that torch calls once and that counts.

    A layer without weights in the graph changes no output (the last one of the first encoder).
    """
    model = onnx.load(path, load_external_data=False)
    nodes = layer_outputs(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    called = _calls(network)
    once = [name for name, count in called.items() if count == 1 and f"{name}.weight" in stored]
    if missing := [name for name in once if name not in nodes]:
        raise SdxlError(
            f"{len(missing)} layers of {network.graph} are not in its graph",
            " ".join(missing[:5]), "every layer",
        )  # fmt: skip
    for start in range(0, len(once), AT_ONCE):
        names = once[start : start + AT_ONCE]
        theirs = _torch_outputs(network, set(names))
        ours = run(path, network, [nodes[name] for name in names])
        for name, array in zip(names, ours, strict=True):
            wanted = theirs[name].numpy()
            if array.size != wanted.size:
                raise SdxlError(f"`{name}` has another shape", array.shape, wanted.shape)
            yield name, deviation(array.reshape(wanted.shape), wanted)


def layer_outputs(model: Any) -> dict[str, str]:
    """The last value that the graph computes inside each module, by module path."""
    found = {}
    for node in model.graph.node:
        scopes = next((each.value for each in node.metadata_props if each.key == SCOPES), None)
        if scopes and len(path := ast.literal_eval(scopes)) > 1:
            found[path[-2]] = node.output[0]
    return found


def run(path: Path, network: Exportable, extra: list[str]) -> list[np.ndarray]:
    """The graph's outputs in ONNX Runtime on the example inputs, or the `extra` values instead."""
    import onnxruntime as ort

    model: Any = str(path)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if extra:
        tapped = onnx.load(path, load_external_data=False)
        del tapped.graph.output[:]
        tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.parent)
        )
        model = tapped.SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {
        name: tensor.numpy() for name, tensor in zip(network.names, network.inputs, strict=True)
    }
    return session.run(None, feed)


def deviation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference as a share of the largest value; infinite for NaN and Inf."""
    wide, wanted = ours.astype(np.float64), theirs.astype(np.float64)
    largest = np.abs(wide - wanted).max() / max(np.abs(wanted).max(), np.finfo(np.float32).tiny)
    return float(largest) if np.isfinite(largest) else float("inf")


def _layers(network: Exportable) -> Iterator[tuple[str, nn.Module]]:
    return (
        (name, each) for name, each in network.module.named_modules() if isinstance(each, LAYERS)
    )


def _calls(network: Exportable) -> Counter[str]:
    """How often one run calls each layer."""
    counts: Counter[str] = Counter()
    hooks = [
        each.register_forward_hook(lambda _m, _a, _out, name=name: counts.update([name]))
        for name, each in _layers(network)
    ]
    network.run()
    for hook in hooks:
        hook.remove()
    return counts


def _torch_outputs(network: Exportable, names: set[str]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    hooks = [
        each.register_forward_hook(lambda _m, _a, out, name=name: found.update({name: out.clone()}))
        for name, each in _layers(network)
        if name in names
    ]
    network.run()
    for hook in hooks:
        hook.remove()
    return found
