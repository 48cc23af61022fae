"""How PyTorch runs the model: the settings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Optional

from sdxl.config import schema
from sdxl.config.ranges import BATCH, Range

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
    """How a quantized UNet computes: in 8 bits, or in its own dtype with rounded numbers.

    `auto`, on a CPU: layers in 8 bits where that is faster for their kind and shape, else in the
    UNet's dtype from the dequantized weight, its input not rounded.
    """

    simulated = "simulated"
    real = "real"
    auto = "auto"


@dataclass
class Config(schema.Backend):
    """How PyTorch runs the model."""

    compile: Compile = Compile("none")  # torch.compile's mode; a UNet in 8 bits stays eager
    channels_last: bool = True  # memory format of UNet and VAE
    threads: Optional[int] = None  # CPU threads; null: torch's own choice
    decode_batch_size: Optional[int] = 4  # images per VAE call; null: all of a batch
    execution: Execution = Execution.simulated  # real: in 8 bits; auto: where that is faster
    fusion: bool = True  # real: norms, GEGLU, residuals and q/k/v fused with the 8-bit products
    attention: Attention = Attention.torch  # kernel; torch: PyTorch's order, auto: by timing
    loop: Loop = Loop.static  # who goes through the denoising steps
    graphs: Graphs = Graphs.auto  # what one CUDA graph holds
    overlap: bool = False  # CUDA: the VAE decodes a batch while the UNet denoises the next

    RANGES: ClassVar[dict[str, Range]] = {"threads": Range(1, 4096), "decode_batch_size": BATCH}
