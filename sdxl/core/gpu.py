"""The GPU that CUDA would use, asked of the driver through NVML: CUDA itself stays untouched."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    driver: str

    @property
    def target(self) -> str:
        """Its architecture as compilers name it: sm89."""
        return f"sm{self.capability[0]}{self.capability[1]}"


def find() -> tuple[Gpu | None, str]:
    """The first GPU that `CUDA_VISIBLE_DEVICES` leaves, or None and the reason."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = (visible or "0").split(",")[0].strip()
    if (visible is not None and not visible.strip()) or first == "-1":
        return None, "CUDA_VISIBLE_DEVICES hides every GPU"
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None, "NVML was not asked: python -m pip install nvidia-ml-py"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return None, f"the NVIDIA driver does not answer: {error}"
    try:
        if first.isdigit():
            handle = nvml.nvmlDeviceGetHandleByIndex(int(first))
        else:
            handle = nvml.nvmlDeviceGetHandleByUUID(first)
        found = Gpu(
            _string(nvml.nvmlDeviceGetName(handle)),
            tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
            nvml.nvmlDeviceGetMemoryInfo(handle).total,
            _string(nvml.nvmlSystemGetDriverVersion()),
        )
    except nvml.NVMLError as error:
        return None, f"the NVIDIA driver does not answer: {error}"
    finally:
        nvml.nvmlShutdown()
    return found, ""


def _string(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
