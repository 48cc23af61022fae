"""TensorRT engines as export and the `trt` backend agree on them; imports no framework.

Two libraries share one API: data-centre TensorRT (`tensorrt`) times kernels on the GPU that it
builds for, TensorRT-RTX (`tensorrt_rtx`) compiles for named architectures, also without a GPU, and
finishes on the user's.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Optional

from sdxl.config import graphs, schema
from sdxl.config.derive import batch_size
from sdxl.config.ranges import BATCH, GIB, Range
from sdxl.config.schema import Config, DType, Format
from sdxl.core import gpu

# OmegaConf reads annotations at run time and wants `Optional[X]`, hence the spelling below.

KIND = "engine"
"""The store's kind."""
ENGINE, LOG, LAYERS = "model.engine", "build.log", "layers.json"
"""An engine's files: the engine, TensorRT's messages, its layers with their number formats."""

RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Architectures that TensorRT-RTX 1.7 can compile for (`tensorrt_rtx.ComputeCapability`)."""
USUAL_TARGETS = ("sm80", "sm86", "sm89", "sm120")
"""What is compiled for where no GPU says what is wanted: a further target costs little."""
NEEDS: dict[Format | DType, tuple[int, str]] = {
    DType.bf16: (80, "bf16 arithmetic exists from sm80 (Ampere)"),
    Format.int4_weight_only: (80, "TensorRT reads INT4 weights from sm80 (Ampere)"),
    Format.fp8: (89, "FP8 tensor cores exist from sm89 (Ada, Hopper)"),
    Format.auto_mixed: (89, "it mixes INT8 and FP8, and FP8 tensor cores exist from sm89"),
    Format.nvfp4: (100, "NVFP4 tensor cores exist from sm100 (Blackwell)"),
}
"""Lowest architecture of a number format, and why; what is not here runs from sm75."""


class Flavor(str, Enum):
    """Which TensorRT; `auto`: what is installed and fits this machine."""

    auto = "auto"
    tensorrt = "tensorrt"
    rtx = "rtx"


MODULES = {Flavor.tensorrt: "tensorrt", Flavor.rtx: "tensorrt_rtx"}


class Compatibility(str, Enum):
    """On which other GPUs a data-centre engine may run, at some cost in speed."""

    none = "none"
    ampere_plus = "ampere_plus"
    same_compute_capability = "same_compute_capability"


@dataclass
class Settings(schema.Backend):
    """How engines are built, then how they are run."""

    flavor: Flavor = Flavor.auto  # data-centre TensorRT or TensorRT-RTX; auto: what is there
    min_batch_size: Optional[int] = None  # images; null: 1
    opt_batch_size: Optional[int] = None  # images that kernels are chosen for; null: the batch
    max_batch_size: Optional[int] = None  # images; null: the batch
    static_batch: bool = False  # exactly the batch, nothing else: faster; short batches are padded
    builder_optimization_level: int = 3  # 0 to 5: a longer search for faster kernels
    workspace_gib: Optional[float] = None  # scratch memory a kernel may take; null: all there is
    tf32: bool = True  # fp32 products may round their factors to TF32
    compute_capabilities: list[str] = field(default_factory=list)  # RTX targets; []: this GPU's
    hardware_compatibility: Compatibility = Compatibility.none  # tensorrt only
    timing_cache: bool = True  # keep kernel timings in the store; tensorrt only
    refit: bool = False  # the weights can be exchanged later; some fusions are lost
    strip_plan: bool = False  # without weights: they are read from the graph when it is loaded
    weight_streaming: bool = False  # weights may stay in host memory
    weight_streaming_budget_gib: Optional[float] = None  # of them on the GPU; null: what fits
    cuda_graphs: bool = False  # replay each batch size as one recorded CUDA graph
    runtime_cache: bool = True  # keep what RTX compiles on this GPU in the store; rtx only
    decode_batch_size: Optional[int] = None  # images per VAE call; null: all of a batch

    RANGES: ClassVar[dict[str, Range]] = {
        **dict.fromkeys(
            ("min_batch_size", "opt_batch_size", "max_batch_size", "decode_batch_size"), BATCH
        ),
        "builder_optimization_level": Range(0, 5, what="has no such level"),
        "workspace_gib": GIB,
        "weight_streaming_budget_gib": Range(0, GIB.most),
    }


def settings_of(config: Config) -> Settings:
    """The backend's settings, which are an engine's."""
    assert isinstance(config.backend, Settings)
    return config.backend


def installed(flavor: Flavor) -> bool:
    """Is that library here? Nothing is imported."""
    return importlib.util.find_spec(MODULES[flavor]) is not None


def choose(config: Config) -> Flavor:
    """The library to use: the one asked for; else data-centre TensorRT where there is a GPU."""
    wanted = settings_of(config).flavor
    if wanted is not Flavor.auto:
        return wanted
    data_centre = installed(Flavor.tensorrt)
    if installed(Flavor.rtx) and not (data_centre and gpu.find()[0]):
        return Flavor.rtx
    return Flavor.tensorrt


def targets(config: Config) -> list[str]:
    """Architectures an RTX engine is compiled for: those asked for, this GPU's, or the usual."""
    if asked := settings_of(config).compute_capabilities:
        return sorted(set(asked), key=number)
    found, _ = gpu.find()
    if found:
        return [found.target]
    least = max((lowest for lowest, _ in needs(config)), default=0)
    return [target for target in USUAL_TARGETS if number(target) >= least]


def images(config: Config) -> tuple[int, int, int]:
    """Smallest, usual and largest number of images in a batch."""
    wanted, batch = settings_of(config), batch_size(config)
    usual = wanted.opt_batch_size or batch
    if wanted.static_batch:
        return batch, batch, batch
    return wanted.min_batch_size or 1, usual, wanted.max_batch_size or max(batch, usual)


def rows(config: Config, graph: str, per_image: int) -> tuple[int, int, int]:
    """(min, opt, max) of the first dimension of a graph's inputs; `per_image`: UNet rows."""
    least, usual, most = images(config)
    wanted = settings_of(config)
    if graph == "vae_decoder" and wanted.decode_batch_size:
        least, usual, most = (min(n, wanted.decode_batch_size) for n in (least, usual, most))
    found = graphs.row_range(graph, (least, usual, most), per_image)
    if graphs.is_unet(graph) and isinstance(config.shortcut, schema.GuidanceCutoff):
        found = (least, *found[1:])  # calls without guidance
    return (found[2],) * 3 if wanted.static_batch else (found[0], found[1], found[2])


def needs(config: Config) -> list[tuple[int, str]]:
    """(lowest architecture, reason) of every number format in the configuration."""
    used = {graphs.dtype_of(config, graph) for graph in graphs.GRAPHS} | {config.quant.format}
    return [need for each, need in NEEDS.items() if each in used]


def host() -> str:
    """Operating system and processor: an engine belongs to both."""
    return f"{sys.platform} {platform.machine()}"


def number(target: str) -> int:
    """sm89 -> 89."""
    return int(target.removeprefix("sm"))
