"""Workers: pictures come back through shared memory, the dead are replaced, nobody stays behind."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from sdxl.bench.pool import Pool
from sdxl.errors import SdxlError, StageError
from sdxl.isolate import WorkerDied

BATCH, SIZE = 4, 16


class Numbers:
    """Pictures whose every value is the index plus the device times 100; faults by index."""

    def __init__(self, device):
        self.device = device

    def generate(self, indices):
        for index in indices:
            if index == 66:
                os.kill(os.getpid(), signal.SIGKILL)
            if index == 67:
                time.sleep(60)
            if index == 68:
                raise StageError("the picture has NaN")
            if index == 69:  # once: whoever comes next finds the mark
                mark = Path(os.environ["SDXL_TEST_MARK"])
                if not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
        values = np.array(indices, np.uint8) + 100 * self.device
        return np.broadcast_to(values[:, None, None, None], (len(indices), SIZE, SIZE, 3))

    def describe(self):
        return {"device": self.device, "pid": os.getpid()}

    def close(self):
        pass


def open_numbers():
    return Numbers(int(os.environ["CUDA_VISIBLE_DEVICES"]))


def dies_while_loading():
    os._exit(7)


def fails_while_loading():
    raise StageError("no such engine")


@pytest.fixture
def pool(request):
    made = []

    def make(devices=(0, 1), restarts=1, silence_s=30.0, opened=open_numbers):
        made.append(
            Pool(opened, (), devices, BATCH * SIZE * SIZE * 3, preload=False, restarts=restarts,
                 startup_s=60.0, silence_s=silence_s)
        )  # fmt: skip
        return made[-1]

    yield make
    for each in made:
        each.close()


def shared_blocks():
    """Ours, and those that a process left behind which is gone."""
    found = {path.name: int(path.name.split("-")[1]) for path in Path("/dev/shm").glob("sdxl-*")}
    return {name for name, pid in found.items() if pid == os.getpid() or not psutil.pid_exists(pid)}


def value(pictures):
    assert pictures.dtype == np.uint8 and pictures.shape[1:] == (SIZE, SIZE, 3)
    return [int(picture.max()) for picture in pictures if picture.min() == picture.max()]


def test_every_lane_draws_on_its_own_device_and_nothing_stays_behind(pool):
    before = shared_blocks()
    made = pool((0, 1))
    for _ in range(3):
        assert value(made.lanes[0].generate([1, 2])) == [1, 2]
        assert value(made.lanes[1].generate([1, 2, 3, 4])) == [101, 102, 103, 104]
    assert made.describe()["devices"] == [0, 1] and made.describe()["deaths"] == []
    assert value(made.generate([9])) == [9]
    workers = [psutil.Process(lane.pid) for lane in made.lanes]
    assert len(shared_blocks() - before) == 2
    made.close()
    assert made.peak_rss_bytes > 2**20
    assert not any(worker.is_running() for worker in workers)
    assert shared_blocks() <= before


def test_a_killed_worker_is_replaced_and_its_batch_given_to_the_next(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("SDXL_TEST_MARK", str(tmp_path / "mark"))
    made = pool((0,))
    first = made.lanes[0].pid
    assert value(made.lanes[0].generate([5, 69])) == [5, 69]
    assert made.lanes[0].pid != first
    (death,) = made.deaths
    assert death["device"] == 0 and death["how"] == "SIGKILL"
    assert death["samples_issued_again"] == 2


def test_killed_while_idle_is_noticed_at_the_next_batch(pool):
    made = pool((0, 1))
    os.kill(made.lanes[1].pid, signal.SIGKILL)
    assert value(made.lanes[1].generate([3])) == [103]
    assert [death["device"] for death in made.deaths] == [1]


def test_a_worker_that_keeps_dying_fails_the_run(pool):
    made = pool((0,), restarts=2)
    with pytest.raises(WorkerDied, match="device 0 died: SIGKILL") as caught:
        made.lanes[0].generate([66])
    assert caught.value.problems[0].fix == "backend.restarts=8"
    assert [death["samples_issued_again"] for death in made.deaths] == [1, 1, 0]


def test_a_silent_worker_counts_as_dead(pool):
    made = pool((0,), restarts=0, silence_s=0.5)
    with pytest.raises(WorkerDied, match=r"silent for 0\.5 s"):
        made.lanes[0].generate([67])


def test_an_exception_in_a_worker_is_an_error_not_a_death(pool):
    made = pool((0,))
    with pytest.raises(SdxlError, match="NaN"):
        made.lanes[0].generate([68])
    assert made.deaths == []


@pytest.mark.parametrize(
    ("opened", "error", "says"),
    [(dies_while_loading, WorkerDied, "exit code 7"), (fails_while_loading, SdxlError, "engine")],
)
def test_a_worker_that_cannot_load_is_a_failure(pool, opened, error, says):
    before = shared_blocks()
    with pytest.raises(error) as caught:
        pool((0, 1), opened=opened)
    assert says in str(caught.value)
    assert shared_blocks() <= before


def test_abandoning_takes_workers_and_blocks_along(pool):
    before = shared_blocks()
    made = pool((0, 1))
    workers = [psutil.Process(lane.pid) for lane in made.lanes]
    threading.Thread(target=partial(made.lanes[0].generate, [67]), daemon=True)
    made.abandon()
    psutil.wait_procs(workers, timeout=10)
    assert all(not w.is_running() or w.status() == psutil.STATUS_ZOMBIE for w in workers)
    assert shared_blocks() <= before
