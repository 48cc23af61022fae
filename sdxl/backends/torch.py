"""PyTorch: eager or compiled, on CPU, CUDA or MPS."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from sdxl import schema
from sdxl.errors import Problem

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sdxl.types import Embeddings, TokenIds

NEEDS_TORCH = True
LOADS = "checkpoint"


# OmegaConf matches an enum by its members' names, and torch's modes have hyphens.
Compile = Enum(
    "Compile",
    {
        "none": "none",
        "default": "default",
        "reduce-overhead": "reduce-overhead",
        "max-autotune": "max-autotune",
    },
    type=str,
    module=__name__,
)
Compile.__doc__ = "torch.compile's mode for UNet and VAE."


class Execution(str, Enum):
    """How a quantized UNet computes: in 8 bits, or in its own dtype with rounded numbers."""

    simulated = "simulated"
    real = "real"


REAL_FORMATS = (schema.Format.int8, schema.Format.fp8, schema.Format.auto_mixed)
"""Formats in which both factors of a product have 8 bits."""

QUANTIZED_ONLY = ("execution",)
"""Settings that an unquantized model ignores; its twin has their defaults."""


@dataclass
class Config(schema.Backend):
    """How PyTorch runs the model."""

    compile: Compile = Compile("none")
    channels_last: bool = True
    threads: Optional[int] = None  # CPU threads; null: torch's own choice
    decode_batch_size: Optional[int] = None  # images per VAE call; null: all of a batch
    execution: Execution = Execution.simulated  # real: INT8 and FP8 layers compute in 8 bits


def problems_of(config: schema.Config) -> list[Problem]:
    """Rules of this backend's own settings."""
    backend = config.backend
    assert isinstance(backend, Config)
    problems = [
        Problem(f"`backend.{name}` is too small", str(value), "at least 1")
        for name in ("threads", "decode_batch_size")
        if (value := getattr(backend, name)) is not None and value < 1
    ]
    if backend.execution is Execution.real:
        problems += _problems_of_real(config, backend)
    return problems


def _problems_of_real(config: schema.Config, backend: Config) -> list[Problem]:
    found = []
    if config.quant.format not in REAL_FORMATS:
        found.append(
            Problem(
                "`backend.execution=real` would be ignored: the products stay in 16 or 32 bits",
                f"quant={config.quant.name}",
                "a recipe that quantizes weights and inputs",
                "quant=int8 backend.execution=real",
            )
        )
    if backend.compile.value != "none":
        found.append(
            Problem(
                "8-bit layers choose their kernels by timing, which torch.compile cannot trace",
                f"backend.execution=real backend.compile={backend.compile.value}",
                "one of both",
                "backend.compile=none",
            )
        )
    return found


def open(config: schema.Config, artifacts: dict[str, Path]) -> TorchStages:
    """Load the model onto its device, ready to run; `artifacts["unet"]`: a quantized checkpoint."""
    return TorchStages(config, artifacts)


class TorchStages:
    """`Stages` on diffusers' and transformers' own modules."""

    def __init__(self, config: schema.Config, artifacts: dict[str, Path]) -> None:
        import torch

        from sdxl.model import open_source, torch_device, torch_dtype

        quantized = artifacts.get("unet")
        assert quantized or config.quant.format is schema.Format.none, "a quantized UNet, but which"

        backend = config.backend
        assert isinstance(backend, Config)
        if backend.threads:
            torch.set_num_threads(backend.threads)
        self.settings = backend
        self.device = torch_device(config.model.device)
        self.precision = config.precision
        source = open_source(config.model, config.seed)
        wanted = {
            "text_encoder": config.precision.text_encoder,
            "text_encoder_2": config.precision.text_encoder,
            "unet": config.precision.unet,
            "vae": config.precision.vae,
        }
        self.modules: dict[str, Any] = {
            name: source.component(name, torch_dtype(dtype), self.device)
            for name, dtype in wanted.items()
            if name != "unet" or not quantized
        }
        self.choice: Any = None
        if quantized:
            dtype = torch_dtype(config.precision.unet)
            self._restore(source.component("unet", dtype, torch.device("meta")), quantized, dtype)
        self.quantization = config.quant.format.value if quantized else "none"
        self._unet, self._vae = self.modules["unet"], self.modules["vae"]
        if backend.channels_last:
            for module in (self._unet, self._vae):
                module.to(memory_format=torch.channels_last)
        self._decode = self._vae.decode
        if backend.compile.value != "none":
            self._unet = torch.compile(self._unet, mode=backend.compile.value)
            self._decode = torch.compile(self._decode, mode=backend.compile.value)

    def _restore(self, shapes: Any, folder: Path, dtype: torch.dtype) -> None:
        """The quantized UNet from its checkpoint, to compute as asked."""
        self.parameters = sum(p.numel() for p in shapes.parameters())
        if self.settings.execution is Execution.real:
            from sdxl.backends import _torch_real

            found = _torch_real.restore(shapes, folder, dtype, self.device)
            self.modules["unet"], self.choice = found
        else:
            from sdxl.backends import _torch_quant

            self.modules["unet"] = _torch_quant.restore(shapes, folder, dtype, self.device)

    def encode(self, ids: TokenIds) -> Embeddings:
        """Penultimate states of both encoders (N, 77, D), pooled output of the second (N, P)."""
        from sdxl import networks

        encoders = self.modules["text_encoder"], self.modules["text_encoder_2"]
        return networks.encode(*encoders, ids, self.modules["unet"].dtype)

    def unet(
        self, sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings
    ) -> torch.Tensor:
        """Predicted noise (N, 4, h, w)."""
        from sdxl import networks

        return networks.predict(self._unet, sample, timestep, embeddings)

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """uint8 images (B, H, W, 3) in host memory; raises `StageError` on NaN or Inf."""
        import numpy as np
        import torch

        from sdxl.images import to_uint8
        from sdxl.model import unscale

        vae = self.modules["vae"]
        size = self.settings.decode_batch_size or len(latents)
        with torch.inference_mode():
            parts = []
            for chunk in latents.split(size):
                image = self._decode(unscale(chunk.to(vae.dtype), vae.config), return_dict=False)[0]
                parts.append(to_uint8(image.permute(0, 2, 3, 1).float().cpu().numpy()))
        return np.concatenate(parts)

    def describe(self) -> dict[str, Any]:
        """Device, dtypes and parameter counts of the components."""
        import torch

        executed = self.choice.describe() if self.choice else {}
        return {
            "backend": "torch",
            "device": str(self.device),
            "device_name": (
                torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
            ),
            "compile": self.settings.compile.value,
            "quantization": self.quantization,
            # 8-bit numbers in 16- or 32-bit arithmetic: quality counts, speed does not.
            "simulated": self.quantization != "none" and not executed.get("real_layers"),
            "execution": executed,
            "threads": torch.get_num_threads(),
            "precision": {
                name: str(module.dtype).removeprefix("torch.")
                for name, module in self.modules.items()
            },
            "parameters": {
                name: sum(p.numel() for p in module.parameters())
                for name, module in self.modules.items()
            }
            | ({"unet": self.parameters} if self.choice else {}),
        }

    def close(self) -> None:
        """Free the modules and the allocator's cache."""
        import torch

        self.modules.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
