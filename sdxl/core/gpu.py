"""The GPUs of this machine, asked of the driver through NVML: CUDA itself stays untouched."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any

VARIABLE = "CUDA_VISIBLE_DEVICES"
INSTALL = "python -m pip install nvidia-ml-py"

REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of the clocks' event reasons (nvml.h) that mean a GPU runs slower than it could."""


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


class Device:
    """One GPU while NVML is open: what the driver says of it."""

    def __init__(self, nvml: Any, index: int, handle: Any) -> None:
        self._nvml, self.index, self._handle = nvml, index, handle
        self.name = _string(nvml.nvmlDeviceGetName(handle))
        self.uuid = _string(nvml.nvmlDeviceGetUUID(handle))

    @property
    def memory(self) -> Any:
        """Bytes: `total`, `free`, `used`."""
        return self._nvml.nvmlDeviceGetMemoryInfo(self._handle)

    def described(self) -> Gpu:
        """What does not change while it works."""
        major, minor = self._nvml.nvmlDeviceGetCudaComputeCapability(self._handle)
        driver = _string(self._nvml.nvmlSystemGetDriverVersion())
        return Gpu(self.name, (major, minor), self.memory.total, driver)

    def is_at(self, place: str) -> bool:
        """Whether an entry of `CUDA_VISIBLE_DEVICES` means it: its index, or its UUID's start."""
        by_uuid = place.startswith(("GPU-", "MIG-")) and self.uuid.startswith(place)
        return place == str(self.index) or by_uuid

    def sample(self) -> dict[str, Any]:
        """Numbers, reasons for lower clocks and processes; None where it does not tell."""
        nvml = self._nvml
        reasons = getattr(
            nvml, "nvmlDeviceGetCurrentClocksEventReasons",
            nvml.nvmlDeviceGetCurrentClocksThrottleReasons,
        )  # fmt: skip

        def ask(question: Callable[..., Any], *words: Any) -> Any:
            try:
                return question(self._handle, *words)
            except nvml.NVMLError:  # not every GPU answers everything
                return None

        memory, load = ask(nvml.nvmlDeviceGetMemoryInfo), ask(nvml.nvmlDeviceGetUtilizationRates)
        there = ask(nvml.nvmlDeviceGetComputeRunningProcesses) or []
        return {
            "index": self.index,
            "power_watts": _thousandth(ask(nvml.nvmlDeviceGetPowerUsage)),
            "sm_clock_mhz": ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            "memory_used_gib": None if memory is None else memory.used / 2**30,
            "utilization_percent": None if load is None else load.gpu,
            "temperature_c": ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            "energy_joules": _thousandth(ask(nvml.nvmlDeviceGetTotalEnergyConsumption)),
            "reasons": reasons_of(ask(reasons) or 0),
            "processes": sorted(process.pid for process in there),
        }


class Gpus:
    """The GPUs that NVML shows, while it is open; none without a driver or without nvidia-ml-py.

    `only`: places, as `CUDA_VISIBLE_DEVICES` has them. `reason` says why there is none, `fix` what
    to type then.
    """

    def __init__(self, only: Collection[str] | None = None) -> None:
        self.devices: list[Device] = []
        self.reason = self.fix = ""
        self._nvml: Any = None
        try:
            self._nvml = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            self.devices = list(self._open(only))
        except ImportError:
            self.reason, self.fix = "NVML was not asked", INSTALL
        except Exception as error:  # NVML's own class: no driver, no library, no permission
            self.reason = f"the NVIDIA driver does not answer: {error}"

    def __enter__(self) -> Gpus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sample(self) -> list[dict[str, Any]]:
        """`Device.sample` of each."""
        return [device.sample() for device in self.devices]

    def close(self) -> None:
        """Let go of the library."""
        if self._nvml:
            with contextlib.suppress(Exception):
                self._nvml.nvmlShutdown()

    def _open(self, only: Collection[str] | None) -> Iterator[Device]:
        nvml = self._nvml
        for index in range(nvml.nvmlDeviceGetCount()):
            device = Device(nvml, index, nvml.nvmlDeviceGetHandleByIndex(index))
            if only is None or any(device.is_at(place) for place in only):
                yield device
        for place in only or ():
            if place.startswith("MIG-"):  # a slice of a GPU, which no index names
                part = nvml.nvmlDeviceGetHandleByUUID(place)
                whole = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)
                yield Device(nvml, nvml.nvmlDeviceGetIndex(whole), part)


def visible() -> list[str] | None:
    """The places that `CUDA_VISIBLE_DEVICES` lists; None where it is not set."""
    listed = os.environ.get(VARIABLE)
    if listed is None:
        return None
    places = takewhile("-1".__ne__, map(str.strip, listed.split(",")))  # CUDA stops there
    return [place for place in places if place]


def find() -> tuple[Gpu | None, str]:
    """The first GPU that `CUDA_VISIBLE_DEVICES` leaves, or None and the reason."""
    first = ["0"] if (places := visible()) is None else places[:1]
    if not first:
        return None, f"{VARIABLE} hides every GPU"
    with Gpus(first) as gpus:
        try:
            if gpus.devices:
                return gpus.devices[0].described(), ""
        except Exception as error:  # a driver that breaks off
            return None, f"the NVIDIA driver does not answer: {error}"
    reason = f"{gpus.reason}: {gpus.fix}" if gpus.fix else gpus.reason
    return None, reason or f"the NVIDIA driver knows no GPU {first[0]}"


@cache
def names() -> dict[str, str]:
    """GPUs that may be used, as `CUDA_VISIBLE_DEVICES` has them -> their product names.

    A name is empty where NVML knows none.
    """
    return _each("name")


def uuids() -> dict[str, str]:
    """The same GPUs -> their UUIDs, which mean one GPU in every container and job."""
    return _each("uuid")


def _each(fact: str) -> dict[str, str]:
    places = visible()
    with Gpus(places) as gpus:
        found = [(each, str(getattr(each, fact))) for each in gpus.devices]
        if places is None:
            return {str(each.index): value for each, value in found}
        return {p: next((v for each, v in found if each.is_at(p)), "") for p in places}


@cache
def kinds() -> list[str]:
    """The kinds of GPU that may be used here; which of them a cell gets does not matter."""
    return sorted({name for name in names().values() if name})


def reasons_of(bits: int) -> list[str]:
    """The bits of the clocks' event reasons in words."""
    return [word for bit, word in REASONS.items() if bits & bit]


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1e3


def _string(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
