"""The GPU that CUDA would use, asked of the driver through NVML: CUDA itself stays untouched."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from sdxl.core import gpu


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


REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of the clocks' event reasons (nvml.h) that mean a GPU runs slower than it could."""


class Gpus:
    """The GPUs that NVML shows; none without a driver or without nvidia-ml-py.

    `only`: indices or UUIDs of those that the measurement was given.
    """

    def __init__(self, only: Collection[str] | None = None) -> None:
        self._nvml: Any = None
        self._handles: dict[int, Any] = {}
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            count = pynvml.nvmlDeviceGetCount()
            for index in range(count):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                names = {str(index), str(pynvml.nvmlDeviceGetUUID(handle))}
                if only is None or not names.isdisjoint(only):
                    self._handles[index] = handle
        except Exception:  # no library, no driver: a machine without NVIDIA GPUs
            self._handles = {}

    def sample(self) -> list[dict[str, Any]]:
        """Numbers, reasons for lower clocks and processes of each GPU."""
        return [self._one(index, handle) for index, handle in self._handles.items()]

    def close(self) -> None:
        """Let go of the library."""
        if self._nvml:
            with contextlib.suppress(Exception):
                self._nvml.nvmlShutdown()

    def _one(self, index: int, handle: Any) -> dict[str, Any]:
        nvml = self._nvml
        reasons = getattr(
            nvml, "nvmlDeviceGetCurrentClocksEventReasons",
            nvml.nvmlDeviceGetCurrentClocksThrottleReasons,
        )  # fmt: skip

        def ask(question: Callable[..., Any], *words: Any) -> Any:
            try:
                return question(handle, *words)
            except nvml.NVMLError:  # not every GPU answers everything
                return None

        power, memory = ask(nvml.nvmlDeviceGetPowerUsage), ask(nvml.nvmlDeviceGetMemoryInfo)
        load = ask(nvml.nvmlDeviceGetUtilizationRates)
        there = ask(nvml.nvmlDeviceGetComputeRunningProcesses) or []
        return {
            "index": index,
            "power_watts": None if power is None else power / 1e3,
            "sm_clock_mhz": ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            "memory_used_gib": None if memory is None else memory.used / 2**30,
            "utilization_percent": None if load is None else load.gpu,
            "temperature_c": ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            "energy_joules": _thousandth(ask(nvml.nvmlDeviceGetTotalEnergyConsumption)),
            "reasons": reasons_of(ask(reasons) or 0),
            "processes": sorted(process.pid for process in there),
        }


def reasons_of(bits: int) -> list[str]:
    """The bits of the clocks' event reasons in words."""
    return [word for bit, word in REASONS.items() if bits & bit]


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1e3


@cache
def gpus() -> list[str]:
    """The kinds of GPU that may be used here; which of them a cell gets does not matter."""
    return sorted({name for name in gpu.names().values() if name})


VARIABLE = "CUDA_VISIBLE_DEVICES"


LOOK_EVERY_S = 0.5


@contextmanager
def reserve(
    waiting: Callable[[str], None], wanted: Sequence[int] | None
) -> Iterator[dict[str, str]]:
    """The environment of a measurement: `one` GPU, or those of `wanted` for it alone.

    `wanted` are places among the GPUs that may be used, as `backend.devices` has them; the
    environment stays as it is then, and each worker picks its own.
    """
    if wanted is None:
        with one(waiting) as found:
            yield found
        return
    from filelock import FileLock, Timeout

    folder = _folder()
    with ExitStack() as held:
        for place in sorted(used({}, wanted)):  # one order for all: no deadlock
            lock = FileLock(folder / f"{place}.lock", timeout=0)
            while True:
                try:
                    held.enter_context(lock)
                    break
                except Timeout:
                    waiting(f"GPU {place} is measuring")
                    time.sleep(LOOK_EVERY_S)
        yield {}


@contextmanager
def one(waiting: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """The environment that shows a child one GPU which nobody else measures on.

    Empty where there is none, or only one, to choose from: nothing is changed then. `waiting` is
    told when all are taken.
    """
    places = list(names())
    if len(places) < 2:
        yield {}
        return
    from filelock import FileLock, Timeout

    folder = _folder()
    with ExitStack() as held:
        while True:
            for place in places:
                try:
                    held.enter_context(FileLock(folder / f"{place}.lock", timeout=0))
                except Timeout:
                    continue
                yield {VARIABLE: place}
                return
            waiting(f"all {len(places)} GPUs are measuring")
            time.sleep(LOOK_EVERY_S)


def used(env: Mapping[str, str], wanted: Sequence[int] | None) -> list[str]:
    """The GPUs of a measurement, as `CUDA_VISIBLE_DEVICES` has them; `env` is from `reserve`."""
    places = [env[VARIABLE]] if VARIABLE in env else list(names())
    if wanted is None:
        return places
    return [places[number] for number in wanted if number < len(places)]


def _folder() -> Path:
    """Where the locks are."""
    folder = Path(tempfile.gettempdir()) / f"sdxl-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


@cache
def names() -> dict[str, str]:
    """GPUs that may be used, as `CUDA_VISIBLE_DEVICES` has them -> their product names.

    By NVML, so that no CUDA context is made here; a name is empty where NVML knows none.
    """
    found = _by_nvml()
    visible = os.environ.get(VARIABLE)
    if visible is None:
        return {place: name for place, name in found.items() if place.isdigit()}
    listed = takewhile("-1".__ne__, map(str.strip, visible.split(",")))  # CUDA stops there
    return {place: found.get(place, "") for place in listed if place}


def _by_nvml() -> dict[str, str]:
    """Product names by index and by UUID."""
    try:
        import pynvml

        pynvml.nvmlInit()
        found: dict[str, str] = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = str(pynvml.nvmlDeviceGetName(handle))
            found |= {str(index): name, str(pynvml.nvmlDeviceGetUUID(handle)): name}
        return found
    except Exception:  # no NVML, no driver: no GPU that counts
        return {}
