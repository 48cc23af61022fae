"""The one reader of NVML: which GPUs may be used, what they are, why there is none."""

import sys

import pytest

from sdxl.core import gpu
from tests.nvml import NVMLError, driver


@pytest.fixture
def machine(monkeypatch):
    """Put a driver into this machine, and set `CUDA_VISIBLE_DEVICES`."""

    def put(found, visible=None):
        monkeypatch.setitem(sys.modules, "pynvml", found)
        if visible is None:
            monkeypatch.delenv(gpu.VARIABLE, raising=False)
        else:
            monkeypatch.setenv(gpu.VARIABLE, visible)
        gpu.names.cache_clear()
        gpu.kinds.cache_clear()

    yield put
    gpu.names.cache_clear()
    gpu.kinds.cache_clear()


KINDS = ["L4", "L4", "H100"]


@pytest.mark.parametrize(
    ("visible", "names", "first"),
    [
        (None, {"0": "L4", "1": "L4", "2": "H100"}, "L4"),
        ("2, 0", {"2": "H100", "0": "L4"}, "H100"),
        ("GPU-2,1", {"GPU-2": "H100", "1": "L4"}, "H100"),
        ("1,-1,2", {"1": "L4"}, "L4"),
        ("7", {"7": ""}, None),
        ("", {}, None),
        ("-1", {}, None),
    ],
)
def test_one_reading_of_what_is_visible(machine, visible, names, first):
    machine(driver(KINDS), visible)
    assert gpu.names() == names and list(gpu.names()) == list(names)
    assert gpu.kinds() == sorted({name for name in names.values() if name})
    found, reason = gpu.find()
    assert (found.name if found else None) == first
    assert bool(reason) == (first is None)


def test_a_gpu_is_described(machine):
    machine(driver(["H100"], gib=80))
    assert gpu.find() == (gpu.Gpu("H100", (9, 0), 80 << 30, "580.1"), "")


def test_a_slice_of_a_gpu_is_found_by_its_uuid(machine):
    names = {"part": "H100 MIG 1g.10gb", 0: "H100"}
    machine(
        driver(
            ["H100"],
            nvmlDeviceGetName=names.get,
            nvmlDeviceGetUUID=lambda handle: "MIG-a1" if handle == "part" else f"GPU-{handle}",
            nvmlDeviceGetHandleByUUID=lambda uuid: "part",
            nvmlDeviceGetDeviceHandleFromMigDeviceHandle=lambda part: 0,
            nvmlDeviceGetIndex=lambda handle: handle,
        ),
        "MIG-a1",
    )
    found, _ = gpu.find()
    assert found and found.name == "H100 MIG 1g.10gb"
    assert gpu.names() == {"MIG-a1": "H100 MIG 1g.10gb"}


def test_why_there_is_none(machine, monkeypatch):
    def dead():
        raise NVMLError("Driver Not Loaded")

    machine(driver([], nvmlInit=dead))
    assert gpu.find() == (None, "the NVIDIA driver does not answer: Driver Not Loaded")
    assert gpu.names() == {}
    machine(driver(["H100"]), "3")
    assert gpu.find() == (None, "the NVIDIA driver knows no GPU 3")
    machine(None)  # an import of None is an ImportError
    assert gpu.find() == (None, "NVML was not asked: python -m pip install nvidia-ml-py")
    machine(None, "5,GPU-7")
    assert gpu.names() == {"5": "", "GPU-7": ""}, "a scheduler's word counts without NVML too"
