"""TensorRT engines on an NVIDIA GPU: data-centre TensorRT or TensorRT-RTX."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdxl.backends.trt.engine import Engine, Recorded, check
from sdxl.config import engines, graphs, schema
from sdxl.config.engines import Flavor
from sdxl.core import gpu, store, terminal
from sdxl.model.graph_stages import GraphStages


def _library(flavor: Flavor) -> Any:
    if flavor is Flavor.rtx:
        import tensorrt_rtx

        return tensorrt_rtx
    import tensorrt

    return tensorrt


def _logger(trt: Any) -> Any:
    """A TensorRT logger: warnings to standard output (the worker's log), errors kept too."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors = [*self.errors, msg.strip()][-20:]
            if severity not in (trt.ILogger.INFO, trt.ILogger.VERBOSE):
                terminal.tell(f"TensorRT: {msg}")

    return Log()


class TrtStages(GraphStages):
    """`Stages` on engines: everything on one CUDA stream, activations in one shared buffer."""

    def __init__(self, config: schema.Config, artifacts: dict[str, Path]) -> None:
        self.settings = engines.settings_of(config)
        self.flavor = engines.choose(config)
        self.quantization = config.quant.format.value
        trt = _library(self.flavor)
        self.version, self._log = trt.__version__, _logger(trt)
        found, reason = gpu.find()
        assert found, reason
        self.gpu = {"name": found.name, "capability": found.target}
        device = torch.device("cuda")
        self.stream = torch.cuda.Stream(device)
        self.engines: dict[str, Any] = {}
        self._caches: dict[str, Path] = {}
        for graph in graphs.of(config):
            manifest = check(artifacts[graph], self.version, self.flavor, self.gpu)
            engine = Engine(trt, self._log, artifacts[graph], manifest, self.settings)
            if self.flavor is Flavor.rtx and self.settings.runtime_cache:
                place = re.sub(r"[^\w.]+", "-", f"{manifest['key']}-{found.name}-{found.driver}")
                self._caches[graph] = store.root() / "runtime" / f"{place}.cache"
                engine.load_cache(self._caches[graph])
            self.engines[graph] = engine
        largest = max(engine.activation_bytes for engine in self.engines.values())
        memory = torch.empty(max(1, largest), dtype=torch.uint8, device=device)
        for engine in self.engines.values():
            engine.use_memory(memory)
        self.activation_bytes = memory.nbytes
        self._record = Recorded
        self._recorded: dict[tuple[str, int], Any] = {}
        calls = {graph: partial(self._run, graph) for graph in self.engines}
        dtype = self.engines[graphs.unets(config.shortcut)[0]].dtype("sample")
        super().__init__(calls, device, dtype, self.settings.decode_batch_size, config.shortcut)

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """uint8 images (B, H, W, 3) in host memory; raises `StageError` on NaN or Inf."""
        self._take_stream()
        with torch.inference_mode():
            return super().decode(latents)

    def describe(self) -> dict[str, Any]:
        """Library, GPU, number formats, layers by format, memory."""
        return {
            "backend": "trt",
            "flavor": self.flavor.value,
            "tensorrt": self.version,
            "device": str(self.device),
            "device_name": self.gpu["name"],
            "quantization": self.quantization,
            "simulated": False,
            "precision": {
                graph: str(engine.dtype(engine.outputs[0])).removeprefix("torch.")
                for graph, engine in self.engines.items()
            },
            "layers": {
                graph: engine.manifest["settings"]["layers"]
                for graph, engine in self.engines.items()
            },
            "activation_bytes": self.activation_bytes,
            "weight_streaming": self.settings.weight_streaming,
            "cuda_graphs": self.settings.cuda_graphs,
            # RTX compiles for each shape; an engine of one size pads by itself.
            "by_shape": not self.settings.static_batch
            and (self.settings.cuda_graphs or self.flavor is Flavor.rtx),
        }

    def close(self) -> None:
        """Keep what RTX compiled, free contexts, engines and the allocator's cache."""
        super().close()
        self._recorded.clear()
        for graph, engine in self.engines.items():
            if graph in self._caches:
                engine.keep_cache(self._caches[graph])
            engine.close()
        self.engines.clear()
        torch.cuda.empty_cache()

    def _run(
        self, graph: str, inputs: dict[str, torch.Tensor], _unread: tuple[str, ...] = ()
    ) -> dict[str, torch.Tensor]:
        """An engine's outputs; with `cuda_graphs` a UNet's are valid until its next call."""
        self._take_stream()
        engine = self.engines[graph]
        if not (self.settings.cuda_graphs and graphs.is_unet(graph)):
            return engine.run(inputs, self.stream.cuda_stream)
        padded = engine.pad(inputs)
        known = graph, len(padded["sample"])
        if known not in self._recorded:
            self._recorded[known] = self._record(engine, padded, self.stream)
        made = self._recorded[known](padded)
        return {name: each[: len(inputs["sample"])] for name, each in made.items()}

    def _take_stream(self) -> None:
        """Make our stream this thread's: torch's own work then queues up with TensorRT's.

        The default stream would make TensorRT synchronize at every call.
        """
        current = torch.cuda.current_stream(self.device)
        if current != self.stream:
            self.stream.wait_stream(current)
            torch.cuda.set_stream(self.stream)
