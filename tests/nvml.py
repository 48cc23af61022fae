"""A stand-in for NVIDIA's management library, with GPUs as told."""

from types import SimpleNamespace


class NVMLError(Exception):
    """What the driver raises."""


def driver(names, busy=(), gib=80, free=None, **more):
    """A `pynvml` with GPUs of these names; strangers work on those of the indices in `busy`.

    Their UUIDs are GPU-0, GPU-1, ...; numbers of their load are not told.
    """

    def nothing(*_):
        raise NVMLError("not supported")

    def running(handle):
        return [SimpleNamespace(pid=999_999_999)] if handle in busy else []

    def memory(handle):
        left = gib if free is None else free
        return SimpleNamespace(total=gib << 30, free=left << 30, used=(gib - left) << 30)

    silent = ["GetPowerUsage", "GetUtilizationRates", "GetClockInfo", "GetTemperature",
              "GetTotalEnergyConsumption", "GetCurrentClocksEventReasons",
              "GetCurrentClocksThrottleReasons"]  # fmt: skip
    told = {
        "nvmlInit": lambda: None, "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(names),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: names[handle],
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetCudaComputeCapability": lambda handle: [9, 0],
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlDeviceGetComputeRunningProcesses": running,
    }  # fmt: skip
    return SimpleNamespace(
        **{f"nvmlDevice{name}": nothing for name in silent} | told | more,
        NVMLError=NVMLError, NVML_CLOCK_SM=0, NVML_CLOCK_MEM=1, NVML_TEMPERATURE_GPU=0,
    )  # fmt: skip
