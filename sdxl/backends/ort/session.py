"""Sessions of ONNX Runtime: providers, threads, tensors bound in place, kernels counted."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch

from sdxl.backends.ort.config import Config, Optimization, Provider
from sdxl.config import graphs, schema
from sdxl.config.choices import Convolutions
from sdxl.core import json_file, store
from sdxl.core.errors import SdxlError, UserError
from sdxl.model.components import torch_device

ort.set_default_logger_severity(3)  # errors only: the CPU provider warns about every fp16 cast

LEVELS = {
    Optimization.disabled: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    Optimization.basic: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    Optimization.extended: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    Optimization.layout: ort.GraphOptimizationLevel.ORT_ENABLE_LAYOUT,
    Optimization.all: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(bfloat16)": torch.bfloat16,
    "tensor(int64)": torch.int64,
}
ELEMENTS = {torch.float32: 1, torch.int64: 7, torch.float16: 10, torch.bfloat16: 16}
"""ONNX's numbers of the types."""
INTEGER = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantize", "QAttention")
"""How the names of integer kernels begin."""
COUNTED = ("Conv", "Gemm", "MatMul", "Attention")
"""Kernels that do the arithmetic have one of these in their names."""
EXACT = ("session.x64quantprecision", "1")
"""Without VNNI its 8-bit products would be added in 16 bits, which overflow; no change with it.

It breaks graphs whose convolutions have 8-bit weights (1.31: `DequantizeLinear`'s zero point).
"""
OVERFLOW = (
    "ONNX Runtime adds 8-bit products in 16 bits on this processor, which has no VNNI: sums of "
    "large codes overflow, and quality is lower than it is elsewhere; with quant=int8 and "
    "export.convolutions=product they are exact"
)


class Runtime:
    """What the sessions share: the device, its providers, the number of threads."""

    def __init__(self, config: schema.Config) -> None:
        backend = config.backend
        assert isinstance(backend, Config)
        self.config, self.settings = config, backend
        self.device = _device(config, backend.provider)
        self.providers: list[str] = []
        """Those of the sessions."""
        self.threads = backend.threads or torch.get_num_threads()

    def session(self, name: str, path: Path, profile: Path) -> Any:
        """A session on graph `name`; the first runs are profiled into `profile`.

        Weights are mapped from their file; raises `SdxlError` where no kernel takes the graph, or
        a provider does not load.
        """
        backend, options = self.settings, ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.graph_optimization_level = LEVELS[backend.optimization]
        options.enable_cpu_mem_arena = backend.arena
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(backend.spin)))
        options.add_session_config_entry(
            "session.disable_prepacking", str(int(not backend.prepack))
        )
        if exact(self.config):
            options.add_session_config_entry(*EXACT)
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
        asked = providers_of(
            backend.provider, self.device, path, graphs.dtype_of(self.config, name)
        )
        try:
            # Its own fallback would go on without the provider.
            session = ort.InferenceSession(str(path), options, asked, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's own classes have no common one
            raise SdxlError(
                "ONNX Runtime does not take the graph", f"{path}: {str(error)[:500]}",
                "kernels for all of its operators and types", "precision=fp32",
            ) from error  # fmt: skip
        self.providers = session.get_providers()
        if lacking := [name for name, _ in asked if name not in self.providers]:
            raise SdxlError(
                f"ONNX Runtime did not load {', '.join(lacking)}",
                f"only {', '.join(self.providers)}; its own message stands above",
                "the libraries that this onnxruntime-gpu was built for",
                "backend.provider=cpu model.device=auto",
            )
        return session

    def describe(self) -> dict[str, Any]:
        """Facts for the record."""
        return {
            "device": str(self.device),
            "device_name": (
                torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
            ),
            "providers": self.providers,
            "threads": self.threads,
            "optimization": self.settings.optimization.value,
        }


class Graph:
    """A session as a function of torch tensors, read and written where they lie."""

    def __init__(self, runtime: Runtime, name: str, path: Path) -> None:
        self.device = runtime.device
        self._folder = tempfile.TemporaryDirectory(prefix="sdxl-ort-")
        self._session = runtime.session(name, path, Path(self._folder.name) / name)
        inputs, self._outputs = self._session.get_inputs(), self._session.get_outputs()
        self._names = tuple(each.name for each in inputs)
        given = tuple(n for n in self._names if not n.startswith((graphs.CROSS, graphs.GUIDANCE)))
        assert given == graphs.INPUTS[name], f"inputs of {path}"
        self.dtypes = [TYPES[each.type] for each in inputs]
        self.kernels: dict[str, Any] = {}

    def __call__(
        self, tensors: dict[str, torch.Tensor], unread: tuple[str, ...] = ()
    ) -> dict[str, torch.Tensor]:
        """Run the graph; returns fresh tensors on its device, none of the outputs `unread`."""
        binding = self._session.io_binding()
        place = self.device.type, self.device.index or 0
        held = [
            tensors[name].to(dtype).contiguous()
            for name, dtype in zip(self._names, self.dtypes, strict=True)
        ]
        for name, tensor in zip(self._names, held, strict=True):
            binding.bind_input(
                name, *place, ELEMENTS[tensor.dtype], tuple(tensor.shape), tensor.data_ptr()
            )
        read = [each for each in self._outputs if not each.name.startswith(unread)]
        results = {each.name: self._result(each, held[0]) for each in read}
        for name, result in results.items():
            binding.bind_output(
                name, *place, ELEMENTS[result.dtype], tuple(result.shape), result.data_ptr()
            )
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # ONNX Runtime has its own
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        if not self.kernels:
            self.kernels = _kernels(Path(self._session.end_profiling()))
            self._folder.cleanup()
        return results

    def _result(self, output: Any, first: torch.Tensor) -> torch.Tensor:
        """Memory for an output: rows as the inputs have, free height and width as the latents."""
        scale = graphs.LATENT_SCALE if output.name == "image" else 1
        shape = [
            length if isinstance(length, int) else first.shape[axis] * (scale if axis > 1 else 1)
            for axis, length in enumerate(output.shape)
        ]
        return torch.empty(shape, dtype=TYPES[output.type], device=self.device)


def exact(config: schema.Config) -> bool:
    """Whether the quantized graphs are such that `EXACT` makes their sums exact everywhere."""
    products = config.export.convolutions in (None, Convolutions.product)
    return products and config.quant.format is schema.Format.int8


def _device(config: schema.Config, provider: Provider) -> torch.device:
    have = ort.get_available_providers()
    if provider is Provider.cpu:
        return torch.device("cpu")
    wanted = (
        provider in (Provider.cuda, Provider.tensorrt) or config.model.device is schema.Device.cuda
    )
    name = "TensorrtExecutionProvider" if provider is Provider.tensorrt else "CUDAExecutionProvider"
    if wanted and (name not in have or not torch.cuda.is_available()):
        raise UserError(
            f"ONNX Runtime cannot use {name} here",
            f"providers {', '.join(have)}; CUDA devices seen by torch: {torch.cuda.device_count()}",
            "onnxruntime-gpu and a CUDA device",
            "backend.provider=auto model.device=auto",
        )
    if config.model.device is schema.Device.cpu or name not in have:
        return torch.device("cpu")
    return torch_device(config.model.device)


def providers_of(
    provider: Provider, device: torch.device, path: Path, dtype: schema.DType
) -> list[tuple[str, dict[str, str]]]:
    """Providers for a graph in the order of preference; the last takes what others cannot."""
    found: list[tuple[str, dict[str, str]]] = []
    number = {"device_id": str(device.index or 0)}
    if provider is Provider.tensorrt:
        # A folder for each artifact: the names of engines know the graph's form, no weights
        # (microsoft/onnxruntime#6455).
        cache = store.root() / "ort_tensorrt" / path.parent.name
        cache.mkdir(parents=True, exist_ok=True)
        # Without its flag TensorRT computes a graph of 16 bits in fp32.
        flags = {} if dtype is schema.DType.fp32 else {f"trt_{dtype.value}_enable": "1"}
        kept = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
        found.append(("TensorrtExecutionProvider", {**number, **kept, **flags}))
    if device.type == "cuda":
        found.append(("CUDAExecutionProvider", number))
    return [*found, ("CPUExecutionProvider", {})]


def _kernels(profile: Path) -> dict[str, Any]:
    """Kernels of one run by kind: integer, float, casts, and the milliseconds of each kind."""
    counts: dict[str, Counter[str]] = {"integer": Counter(), "float": Counter()}
    spent: Counter[str] = Counter()
    casts = 0
    for event in json_file.read(profile):
        kernel = event.get("args", {}).get("op_name")
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time") or not kernel:
            continue
        spent[kernel] += event["dur"]
        casts += kernel == "Cast"
        if any(part in kernel for part in COUNTED):
            counts["integer" if kernel.startswith(INTEGER) else "float"][kernel] += 1
    return {
        **{kind: dict(found) for kind, found in counts.items()},
        "casts": casts,
        "first_run_ms": {kernel: round(us / 1e3, 3) for kernel, us in spent.most_common(8)},
    }
