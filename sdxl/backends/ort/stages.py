"""ONNX Runtime: the exported graphs on CPU, or on CUDA and TensorRT through its providers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdxl.backends.ort.config import Config
from sdxl.backends.ort.session import OVERFLOW, Graph, Runtime, exact
from sdxl.config import graphs, schema
from sdxl.core import environment
from sdxl.model.components import torch_dtype
from sdxl.model.graph_stages import GraphStages


class OrtStages(GraphStages):
    """`Stages` on sessions of ONNX Runtime, one a graph."""

    def __init__(self, config: schema.Config, artifacts: dict[str, Path]) -> None:
        backend = config.backend
        assert isinstance(backend, Config)
        self.runtime = Runtime(config)
        self.sessions: dict[str, Graph] = {
            name: Graph(self.runtime, name, artifacts[name] / graphs.MODEL)
            for name in graphs.of(config)
        }
        super().__init__(
            self.sessions,
            self.runtime.device,
            torch_dtype(config.precision.unet),
            backend.decode_batch_size,
            config.shortcut,
        )
        self.precision = {name: graphs.dtype_of(config, name).value for name in graphs.of(config)}
        self.quantization = config.quant.format
        self.exact = exact(config)

    def describe(self) -> dict[str, Any]:
        """Device, providers, and the kernels that really ran, by graph."""
        kernels = {name: session.kernels for name, session in self.sessions.items()}
        return {
            "backend": "ort",
            **self.runtime.describe(),
            "by_shape": self.runtime.device.type == "cuda",  # plans and engines, kept by shape
            "quantization": self.quantization.value,
            "simulated": is_simulated(self.quantization, kernels),
            "precision": self.precision,
            "kernels": {name: found for name, found in kernels.items() if found},
            "warnings": self._doubts(),
        }

    def _doubts(self) -> list[str]:
        number = self.quantization
        eight = number is schema.Format.int8 or number is schema.Format.auto_mixed
        inexact = eight and not self.exact and self.runtime.device.type == "cpu"
        return [OVERFLOW] if inexact and environment.lacks_vnni() else []

    def close(self) -> None:
        """Free the sessions."""
        super().close()
        self.sessions.clear()


def is_simulated(number: schema.Format, kernels: dict[str, dict[str, Any]]) -> bool:
    """Whether inputs of layers are rounded, and yet no UNet counted an integer kernel."""
    rounded = number is not schema.Format.none and not number.weight_only
    unets = (found for name, found in kernels.items() if graphs.is_unet(name))
    return rounded and not any(found.get("integer") for found in unets)
