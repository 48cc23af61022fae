"""OpenVINO on the IR of the exported graphs."""

from __future__ import annotations

import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sdxl.backends.openvino import exact, library
from sdxl.backends.openvino.config import Place, settings_of
from sdxl.backends.openvino.ir import IR
from sdxl.backends.openvino.rules import ABILITIES
from sdxl.config import graphs, schema
from sdxl.config.derive import batch_size
from sdxl.config.schema import DType
from sdxl.core import store
from sdxl.model import guidance
from sdxl.model.components import torch_dtype
from sdxl.model.graph_stages import GraphStages

openvino = library.load()
HINTS = {DType.fp32: "f32", DType.fp16: "f16", DType.bf16: "bf16"}
COUNTED = ("Convolution", "FullyConnected", "MatMul", "Gemm", "ScaledDotProductAttention")
"""Kinds of nodes that do the arithmetic."""


class OpenVinoStages(GraphStages):
    """`Stages` on compiled models, one a graph."""

    def __init__(self, config: schema.Config, artifacts: dict[str, Path]) -> None:
        self.settings, self.quantization = settings_of(config), config.quant.format
        names = graphs.of(config)
        self.models = {name: Compiled(config, name, artifacts[name]) for name in names}
        self.precision = {name: graphs.dtype_of(config, name).value for name in names}
        dtype = torch_dtype(config.precision.unet)
        size = self.settings.decode_batch_size
        super().__init__(self.models, torch.device("cpu"), dtype, size, config.shortcut)

    def describe(self) -> dict[str, Any]:
        """Device, streams, and the kernels that were chosen, by graph."""
        static, place = self.settings.static_batch, self.settings.device_name
        return {
            "backend": "openvino",
            "openvino": version("openvino"),
            "device": place.value,
            **self.models[graphs.unets(self.shortcut)[0]].describe(),
            "static_batch": static,
            # Other devices compile for each shape; a static model pads by itself.
            "by_shape": place is not Place.cpu and not static,
            "quantization": self.quantization.value,
            "simulated": False,
            "precision": self.precision,
            "arithmetic": {name: each.arithmetic for name, each in self.models.items()},
            "kernels": {name: each.kernels() for name, each in self.models.items()},
            "warnings": self._doubts(),
        }

    def _doubts(self) -> list[str]:
        number = self.quantization
        rounded = number is not schema.Format.none and not number.weight_only
        on_cpu = self.settings.device_name is Place.cpu
        return [exact.OVERFLOW] if rounded and on_cpu and exact.overflows() else []

    def close(self) -> None:
        """Free the models."""
        super().close()
        self.models.clear()


class Compiled:
    """A compiled graph as a function of torch tensors; a batch goes through in `streams` parts."""

    def __init__(self, config: schema.Config, graph: str, folder: Path) -> None:
        backend = settings_of(config)
        core, place = openvino.Core(), backend.device_name.value.upper()
        model = core.read_model(folder / IR)
        self.parts = backend.streams
        self.rows = -(-_rows(config, graph) // self.parts) if backend.static_batch else 0
        """Rows of a part in a static model; 0: any."""
        if self.rows:
            model.reshape({port: self._static(config, port) for port in model.inputs})
        properties = {
            "INFERENCE_PRECISION_HINT": HINTS[_arithmetic(config, graph, core, place)],
            "PERFORMANCE_HINT": "LATENCY" if self.parts == 1 else "THROUGHPUT",
            "NUM_STREAMS": self.parts,
        }
        if place == "CPU":
            properties |= {
                "INFERENCE_NUM_THREADS": backend.threads or torch.get_num_threads(),
                "ENABLE_CPU_PINNING": False,  # two processes would sit on the same cores
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # it would round inputs that no recipe rounds
            }
        else:
            properties["CACHE_DIR"] = str(store.root() / "openvino_compiled")
        self.model = core.compile_model(_plain_ports(model), place, properties)
        self.requests = [self.model.create_infer_request() for _ in range(self.parts)]
        self.inputs = {
            port.get_any_name(): port.element_type == openvino.Type.i64
            for port in self.model.inputs
        }
        """Inputs by name, in order: whether they are integers."""
        self.outputs = [port.get_any_name() for port in self.model.outputs]
        found = self.model.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.arithmetic = next(dtype.value for dtype, hint in HINTS.items() if hint == found)
        self._place = place

    def __call__(self, tensors: dict[str, Any], unread: tuple[str, ...] = ()) -> dict[str, Any]:
        """Run the graph; returns fresh tensors, none of the outputs `unread`."""
        count = len(tensors[next(iter(self.inputs))])
        size = self.rows or -(-count // self.parts)
        starts = range(0, count, size)
        # Strict: more rows than a static model takes must not be left out.
        running = list(zip(self.requests[: len(starts)], starts, strict=True))
        for request, start in running:
            part = [
                self._part(tensors[name], integer, start, size)
                for name, integer in self.inputs.items()
            ]
            request.start_async(part, share_inputs=True)
        found: dict[str, list[Any]] = {n: [] for n in self.outputs if not n.startswith(unread)}
        for request, start in running:
            request.wait()
            for name, out in zip(self.outputs, request.output_tensors, strict=True):
                if name in found:
                    found[name].append(torch.from_numpy(out.data[: count - start].copy()))
        return {name: torch.cat(parts) for name, parts in found.items()}

    def describe(self) -> dict[str, Any]:
        """The device's name, threads and streams."""
        cpu = self._place == "CPU"
        return {
            "device_name": "cpu" if cpu else self.model.get_property("FULL_DEVICE_NAME"),
            **({"threads": self.model.get_property("INFERENCE_NUM_THREADS")} if cpu else {}),
            "streams": self.parts,
        }

    def kernels(self) -> dict[str, Any]:
        """Nodes that do the arithmetic, by kernel: integer and float."""
        counts: dict[str, Counter[str]] = {"integer": Counter(), "float": Counter()}
        for node in self.model.get_runtime_model().get_ordered_ops():
            facts = node.get_rt_info()
            kind, kernel = (
                facts[name].astype(str) if name in facts else ""
                for name in ("layerType", "primitiveType")
            )
            if kind in COUNTED:
                eight = bool(re.search(r"[iu]8$", kernel, re.IGNORECASE))
                counts["integer" if eight else "float"][f"{kind} {kernel}"] += 1
        return {name: dict(found.most_common()) for name, found in counts.items()}

    def _static(self, config: schema.Config, port: Any) -> list[int]:
        """The port's shape with nothing free."""
        size = {0: self.rows, 2: config.model.height, 3: config.model.width}
        return [
            dim.get_length()
            if dim.is_static
            else size[axis] // (graphs.LATENT_SCALE if axis else 1)
            for axis, dim in enumerate(port.partial_shape)
        ]

    def _part(self, tensor: Any, integer: bool, start: int, size: int) -> Any:
        """Rows of an input as numpy's, padded to a static model's; the timestep has none."""
        part = tensor if tensor.ndim == 1 else tensor[start : start + size]
        if self.rows and tensor.ndim > 1 and len(part) < size:
            part = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
        return part.to(torch.int64 if integer else torch.float32).contiguous().numpy()


def _rows(config: schema.Config, graph: str) -> int:
    """Rows of a full batch."""
    images = batch_size(config)
    if graph == "vae_decoder":
        images = min(images, settings_of(config).decode_batch_size or images)
    return graphs.rows(graph, images, guidance.rows_of(config))


def _plain_ports(model: Any) -> Any:
    """The model with fp32 inputs and outputs: numpy has no bf16."""
    ports = openvino.preprocess.PrePostProcessor(model)
    for place, port in enumerate(model.inputs):
        if port.element_type.is_real():
            ports.input(place).tensor().set_element_type(openvino.Type.f32)
    for place in range(len(model.outputs)):
        ports.output(place).tensor().set_element_type(openvino.Type.f32)
    return ports.build()


def _arithmetic(config: schema.Config, graph: str, core: Any, place: str) -> DType:
    """The hint, else the graph's format where the device has it, else fp32."""
    wanted = settings_of(config).precision_hint or graphs.dtype_of(config, graph)
    able = ABILITIES[wanted] in core.get_property(place, "OPTIMIZATION_CAPABILITIES")
    return wanted if able else DType.fp32
