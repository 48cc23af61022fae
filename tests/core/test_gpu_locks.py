"""Who holds a GPU, by whichever name."""

import sys

import pytest
from filelock import FileLock, Timeout

from sdxl.core import gpu, gpu_locks
from tests.nvml import driver


@pytest.fixture
def visible(monkeypatch, tmp_path):
    """Set what is visible of two GPUs; locks lie in a folder of their own."""
    monkeypatch.setitem(sys.modules, "pynvml", driver(["L4", "L4"]))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def put(places):
        monkeypatch.setenv(gpu.VARIABLE, places)
        gpu.names.cache_clear()

    yield put
    gpu.names.cache_clear()


def test_a_lone_gpu_is_held_for_others_to_see(visible):
    visible("1")
    with gpu_locks.one(print) as env:
        assert env == {}
        visible("0,1")
        with gpu_locks.one(print) as beside:
            assert beside == {gpu.VARIABLE: "0"}, "the other one is taken"
        visible("1")
        with gpu_locks.one(print) as again:  # a client of the server that holds it
            assert again == {}


def test_a_lock_is_that_of_the_chip_whatever_its_index_is(visible):
    visible("GPU-1,0")
    with gpu_locks.reserve(print, [0]):
        visible("0,1")
        (file,) = [path for path in gpu_locks._files().values() if path.name == "GPU-1.lock"]
        with pytest.raises(Timeout):
            FileLock(file, timeout=0).acquire()
        with gpu_locks.one(print) as beside:
            assert beside == {gpu.VARIABLE: "0"}
