"""PyTorch: eager or compiled, on CPU, CUDA or MPS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from sdxl import schema
from sdxl.errors import ConfigError, Problem

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sdxl.types import Embeddings, TokenIds

NEEDS_TORCH = True
LOADS = "checkpoint"
PROFILES = True
"""Has `modules`, and `eager()` in which they run one by one."""


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
Compile.__doc__ = (
    "torch.compile's mode for UNet and VAE; a UNet that computes in 8 bits stays eager."
)


class Loop(str, Enum):
    """Who goes through the denoising steps."""

    static = "static"  # this backend, with buffers that stay, latents in fp32
    scheduler = "scheduler"  # the sampler's own loop, which all backends share
    pipeline = "pipeline"  # diffusers' own pipeline, for comparison


class Graphs(str, Enum):
    """What one CUDA graph holds."""

    auto = "auto"  # a step on CUDA, nothing elsewhere or where torch.compile has its own
    none = "none"
    step = "step"
    loop = "loop"


class Attention(str, Enum):
    """The kernel of attention."""

    torch = "torch"  # PyTorch's own order
    auto = "auto"  # timed for each shape in the warm-up
    math = "math"
    flash = "flash"
    efficient = "efficient"
    cudnn = "cudnn"
    fa3 = "fa3"  # FlashAttention 3, as the package fa3-fwd has it for Hopper


class Execution(str, Enum):
    """How a quantized UNet computes: in 8 bits, or in its own dtype with rounded numbers."""

    simulated = "simulated"
    real = "real"


QUANTIZED_ONLY = ("execution", "fusion")
"""Settings that an unquantized model ignores; its twin has their defaults."""


@dataclass
class Config(schema.Backend):
    """How PyTorch runs the model."""

    compile: Compile = Compile("none")
    channels_last: bool = True
    threads: Optional[int] = None  # CPU threads; null: torch's own choice
    decode_batch_size: Optional[int] = 4  # images per VAE call; null: all of a batch
    execution: Execution = Execution.simulated  # real: INT8 and FP8 layers compute in 8 bits
    fusion: bool = True  # real: norms, GEGLU, residuals and q/k/v fused with the 8-bit products
    attention: Attention = Attention.torch
    loop: Loop = Loop.static
    graphs: Graphs = Graphs.auto
    overlap: bool = False  # CUDA: the VAE decodes a batch while the UNet denoises the next


def problems_of(config: schema.Config) -> list[Problem]:
    """Rules of this backend's own settings."""
    from sdxl.backends import _torch_rules

    return list(_torch_rules.problems_of(config))


def missing(config: schema.Config) -> list[Problem]:
    """What this machine lacks for the settings, as far as the driver tells."""
    from sdxl.backends import _torch_rules

    return list(_torch_rules.missing(config))


def open(config: schema.Config, artifacts: dict[str, Path]) -> TorchStages:
    """Load the model onto its device, ready to run; `artifacts["unet"]`: a quantized checkpoint."""
    from sdxl.backends import _torch_rules
    from sdxl.model import torch_device

    device = torch_device(config.model.device)
    memory_bytes = None
    if device.type == "cuda":
        import torch

        memory_bytes = torch.cuda.get_device_properties(device).total_memory
    if problems := list(_torch_rules.missing(config, device.type, memory_bytes)):
        raise ConfigError(problems)
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
        if backend.channels_last:
            for name in ("unet", "vae"):
                self.modules[name].to(memory_format=torch.channels_last)
        self.attention: Any = None
        if backend.attention is not Attention.torch:
            from sdxl.backends import _torch_attention

            networks = [self.modules["unet"]]
            if not backend.overlap:  # PyTorch's choice of a kernel is the process's, not a thread's
                networks.append(self.modules["vae"])
            self.attention = _torch_attention.install(networks, backend.attention, self.device)
        self._unet, self._decode = self.modules["unet"], self.modules["vae"].decode
        self.compiled: Any = None
        if self.device.type == "cuda" or backend.compile.value != "none":
            from sdxl.backends import _torch_compile

            _torch_compile.use_store()
        if backend.compile.value != "none":
            self.compiled = _torch_compile.Cache(backend.compile.value)
            early = self.attention is not None
            if self.choice is None:  # 8-bit layers choose their kernels by timing: eager
                self._unet = self.compiled.compile("unet", self._unet, early)
            self._decode = self.compiled.compile("vae", self._decode, early)
        self.overlap = backend.overlap
        """Whether `decode` may run beside the next batch's loop: it has a stream of its own."""
        self._aside = torch.cuda.Stream(self.device) if backend.overlap else None
        self.steps = config.model.steps
        self.loop = self._loop(config, source.scheduler())
        if self.loop:
            self.denoise = self.loop

    def _loop(self, config: schema.Config, scheduler: Any) -> Any:
        """The whole denoise loop, unless the sampler's own is to run."""
        from sdxl.backends import _torch_loop, _torch_rules

        kind, steps, guidance = self.settings.loop, config.model.steps, config.model.guidance
        if kind is Loop.pipeline:
            return _torch_loop.Pipeline(self.modules, scheduler, steps, guidance)
        predicted = scheduler.config.prediction_type
        if kind is Loop.scheduler or predicted != "epsilon":
            if problems := list(_torch_rules.of_prediction(self.settings, predicted)):
                raise ConfigError(problems)
            return None
        graphs = self.settings.graphs
        if graphs is Graphs.auto:
            theirs = self.settings.compile in _torch_rules.OWN_GRAPHS
            cuda = self.device.type == "cuda"
            graphs = Graphs.step if cuda and not theirs else Graphs.none
        return _torch_loop.Denoiser(
            lambda *given: self.unet(*given), scheduler, steps, guidance, self.device, graphs
        )

    @contextmanager
    def eager(self) -> Iterator[None]:
        """The sampler's own loop over modules that are not compiled: what hooks can watch."""
        kept = self._unet, self._decode, self.__dict__.pop("denoise", None)
        self._unet, self._decode = self.modules["unet"], self.modules["vae"].decode
        try:
            yield
        finally:
            self._unet, self._decode, loop = kept
            if loop:
                self.denoise = loop

    def _restore(self, shapes: Any, folder: Path, dtype: torch.dtype) -> None:
        """The quantized UNet from its checkpoint, to compute as asked."""
        self.parameters = sum(p.numel() for p in shapes.parameters())
        if self.settings.execution is Execution.real:
            from sdxl.backends import _torch_real

            found = _torch_real.restore(shapes, folder, dtype, self.device, self.settings.fusion)
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
        """uint8 images (B, H, W, 3) in host memory; raises `StageError` on NaN or Inf.

        With `overlap` nothing on the current stream is waited for: the latents must have arrived.
        """
        import torch

        from sdxl import images
        from sdxl.model import unscale

        vae = self.modules["vae"]
        size = self.settings.decode_batch_size or len(latents)
        aside = torch.cuda.stream(self._aside) if self._aside else nullcontext()
        with torch.inference_mode(), aside:
            parts = []
            for chunk in latents.split(size):
                image = self._decode(unscale(chunk.to(vae.dtype), vae.config), return_dict=False)[0]
                parts.append(images.on_device(image))
            return images.to_host(parts)

    def describe(self) -> dict[str, Any]:
        """Device, dtypes, parameter counts and what was chosen."""
        from sdxl.backends import _torch_facts

        return _torch_facts.of(self)

    def close(self) -> None:
        """Free the modules and the allocator's cache."""
        import torch

        self.modules.clear()
        self.__dict__.pop("denoise", None)
        self.loop = self._unet = self._decode = None  # graphs and buffers with them
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
