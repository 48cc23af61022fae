"""How ONNX Runtime runs the graphs: the settings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Optional

from sdxl.config import schema
from sdxl.config.ranges import BATCH, Range


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

    provider: Provider = Provider.auto  # who runs the nodes; auto: CUDA where it can
    threads: Optional[int] = None  # CPU threads; null: as many as torch takes
    optimization: Optimization = Optimization.all  # ONNX Runtime's graph optimization level
    spin: bool = True  # idle threads wait busily: faster, unless others need the cores
    arena: bool = True  # keep freed memory for the next call
    prepack: bool = True  # store weights a second time as the kernels like them: faster, larger
    decode_batch_size: Optional[int] = None  # images per VAE call; null: all of a batch

    RANGES: ClassVar[dict[str, Range]] = {"threads": Range(1, 4096), "decode_batch_size": BATCH}
