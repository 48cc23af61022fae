"""ONNX Runtime: the exported graphs on CPU, or on CUDA and TensorRT through its providers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from sdxl.config import schema
from sdxl.core.errors import Problem

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sdxl.core.types import Embeddings, TokenIds

NEEDS_TORCH = True
LOADS = "graphs"


class Provider(str, Enum):
    """Who runs the nodes; `auto` is CUDA where device and package have it, else the CPU."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


class Optimization(str, Enum):
    """ONNX Runtime's graph optimization levels."""

    disabled = "disabled"
    basic = "basic"
    extended = "extended"  # fuses nodes
    layout = "layout"  # and reorders the data of convolutions
    all = "all"


@dataclass
class Config(schema.Backend):
    """How ONNX Runtime runs the graphs."""

    provider: Provider = Provider.auto
    threads: Optional[int] = None  # CPU threads; null: as many as torch takes
    optimization: Optimization = Optimization.all
    spin: bool = True  # idle threads wait busily: faster, unless others need the cores
    arena: bool = True  # keep freed memory for the next call
    prepack: bool = True  # store weights a second time as the kernels like them: faster, larger
    decode_batch_size: Optional[int] = None  # images per VAE call; null: all of a batch


def problems_of(config: schema.Config) -> list[Problem]:
    """Rules of this backend's own settings, and of the graphs it loads."""
    from sdxl.config import graphs

    backend = config.backend
    assert isinstance(backend, Config)
    problems = graphs.problems_of(config)
    problems += [
        Problem(f"`backend.{name}` is too small", str(value), "at least 1")
        for name in ("threads", "decode_batch_size")
        if (value := getattr(backend, name)) is not None and value < 1
    ]
    if _fuses_fp8(config, backend):
        problems.append(
            Problem(
                "ONNX Runtime's fusions break FP8 graphs (1.31: they take FP8 for INT8)",
                f"quant={config.quant.name} backend.optimization={backend.optimization.value}",
                "backend.optimization=basic or disabled, at float speed; or INT8",
                f"quant={config.quant.name} backend.optimization=basic",
            )
        )
    on_cpu = config.model.device in (schema.Device.cpu, schema.Device.mps)
    if on_cpu and backend.provider in (Provider.cuda, Provider.tensorrt):
        problems.append(
            Problem(
                "`backend.provider` needs a CUDA device",
                f"model.device={config.model.device.value}",
                "model.device=auto or cuda",
                "backend.provider=cpu",
            )
        )
    if config.model.device is schema.Device.cuda and backend.provider is Provider.cpu:
        problems.append(
            Problem(
                "`model.device` would be ignored", "model.device=cuda backend.provider=cpu",
                "one place", "model.device=auto",
            )
        )  # fmt: skip
    if (on_cpu or backend.provider is Provider.cpu) and (problem := _bf16(config)):
        problems.append(problem)
    if config.model.device is schema.Device.mps:
        problems.append(
            Problem("ONNX Runtime has no MPS provider", "model.device=mps", "cpu or cuda",
                    "model.device=cpu")
        )  # fmt: skip
    return problems


def missing(config: schema.Config) -> list[Problem]:
    """What this machine lacks to run the graphs, found before they are made."""
    from importlib.util import find_spec

    from sdxl.core import gpu

    problem = _bf16(config)
    # onnxruntime-gpu installs the same module; its CUDA provider is a library inside.
    spec = find_spec("onnxruntime")
    places = spec.submodule_search_locations if spec else None
    cuda = any(list(Path(place).glob("capi/*providers_cuda*")) for place in places or [])
    return [problem] if problem and not (cuda and gpu.find()[0]) else []


def _bf16(config: schema.Config) -> Problem | None:
    """The CPU provider (1.31.1) has Transpose, Gather and LayerNormalization in bf16, no product
    or sum."""
    from sdxl.config import graphs

    found = [g for g in graphs.GRAPHS if graphs.dtype_of(config, g) is schema.DType.bf16]
    if not found:
        return None
    return Problem(
        "ONNX Runtime has no bf16 arithmetic on a CPU",
        f"bf16 for {', '.join(found)}",
        "fp32 or fp16; or a GPU, with onnxruntime-gpu",
        "precision=fp32   # or: backend=torch",
    )


def _fuses_fp8(config: schema.Config, backend: Config) -> bool:
    """Whether FP8 layers, perhaps among others, would meet fusions made for INT8."""
    eight = config.quant.format in (schema.Format.fp8, schema.Format.auto_mixed)
    careful = backend.optimization in (Optimization.disabled, Optimization.basic)
    return eight and not careful and backend.provider is not Provider.tensorrt


def open(config: schema.Config, artifacts: dict[str, Path]) -> OrtStages:
    """Load the graphs, ready to run; `artifacts`: a folder for each graph."""
    return OrtStages(config, artifacts)


class OrtStages:
    """`Stages` on four sessions of ONNX Runtime."""

    def __init__(self, config: schema.Config, artifacts: dict[str, Path]) -> None:
        from sdxl.backends.ort.session import Graph, Runtime
        from sdxl.config import graphs
        from sdxl.model.sources import torch_dtype

        backend = config.backend
        assert isinstance(backend, Config)
        self.settings = backend
        self.runtime = Runtime(config)
        self.sessions: dict[str, Graph] = {
            name: Graph(self.runtime, name, artifacts[name] / graphs.MODEL)
            for name in graphs.GRAPHS
        }
        self.dtype = torch_dtype(config.precision.unet)
        self.precision = {name: graphs.dtype_of(config, name).value for name in graphs.GRAPHS}
        self.quantization = config.quant.format.value

    def encode(self, ids: TokenIds) -> Embeddings:
        """Penultimate states of both encoders (N, 77, D), pooled output of the second (N, P)."""
        import torch

        from sdxl.core.types import Embeddings

        first, second = (
            torch.as_tensor(rows, device=self.runtime.device) for rows in (ids.first, ids.second)
        )
        (hidden,) = self.sessions["text_encoder"](first)
        hidden_2, pooled = self.sessions["text_encoder_2"](second)
        states = torch.cat([hidden, hidden_2], dim=-1)
        return Embeddings(states.to(self.dtype), pooled.to(self.dtype), time_ids=None)

    def unet(
        self, sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings
    ) -> torch.Tensor:
        """Predicted noise (N, 4, h, w)."""
        added = embeddings.pooled, embeddings.time_ids
        when = timestep.reshape(1).float()
        (noise,) = self.sessions["unet"](sample, when, embeddings.hidden, *added)
        return noise

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """uint8 images (B, H, W, 3) in host memory; raises `StageError` on NaN or Inf."""
        import numpy as np

        from sdxl.model.images import to_uint8

        decoder = self.sessions["vae_decoder"]
        parts = []
        for chunk in latents.split(self.settings.decode_batch_size or len(latents)):
            (image,) = decoder(chunk.to(decoder.dtypes[0]))
            parts.append(to_uint8(image.permute(0, 2, 3, 1).float().cpu().numpy()))
        return np.concatenate(parts)

    def describe(self) -> dict[str, Any]:
        """Device, providers, and the kernels that really ran, by graph."""
        kernels = {name: session.kernels for name, session in self.sessions.items()}
        return {
            "backend": "ort",
            **self.runtime.describe(),
            "by_shape": self.runtime.device.type == "cuda",  # plans and engines, kept by shape
            "quantization": self.quantization,
            # INT8 layers run in integer kernels, `kernels` counts them; FP8 ones in float kernels.
            "simulated": self.quantization == schema.Format.fp8.value,
            "precision": self.precision,
            "kernels": {name: found for name, found in kernels.items() if found},
        }

    def close(self) -> None:
        """Free the sessions."""
        self.sessions.clear()
