"""The description of this machine."""

import sys

from sdxl.bench.mlperf.submission import systems
from sdxl.core import gpu
from tests.nvml import driver


def test_gpus_of_one_kind_are_counted(monkeypatch):
    monkeypatch.delenv(gpu.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", driver(["H100", "H100"]))
    gpu.names.cache_clear()
    found = systems.describe()
    gpu.names.cache_clear()
    assert found["accelerators_per_node"] == "2" and found["accelerator_model_name"] == "H100"
