"""How OpenVINO runs the graphs: the settings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Optional

from sdxl.config import schema
from sdxl.config.ranges import BATCH, Range
from sdxl.config.schema import DType


class Place(str, Enum):
    """OpenVINO's devices."""

    cpu = "cpu"
    gpu = "gpu"  # Intel's
    npu = "npu"


@dataclass
class Config(schema.Backend):
    """How OpenVINO runs the graphs."""

    device_name: Place = Place.cpu  # OpenVINO's device: cpu, an Intel gpu, an npu
    precision_hint: Optional[DType] = None  # arithmetic outside 8 bits; null: the graphs' formats
    threads: Optional[int] = None  # CPU threads, of all streams together; null: as torch takes
    streams: int = 1  # parts of a batch that are computed at the same time
    static_batch: bool = False  # compile for the batch alone; short batches are padded
    decode_batch_size: Optional[int] = None  # images per VAE call; null: all of a batch

    RANGES: ClassVar[dict[str, Range]] = {
        "threads": Range(1, 4096),
        "streams": Range(1, 256),
        "decode_batch_size": BATCH,
    }


def settings_of(config: schema.Config) -> Config:
    """The backend's settings."""
    assert isinstance(config.backend, Config)
    return config.backend
