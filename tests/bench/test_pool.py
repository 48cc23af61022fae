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

from sdxl.bench.pool import Patience, Pool
from sdxl.core.errors import SdxlError, StageError
from sdxl.core.isolate import WorkerDied

BATCH, SIZE = 4, 16


def note(text):
    """A line that the tests can read of what the workers did."""
    with Path(os.environ["SDXL_TEST_MARK"]).with_name("log").open("a") as log:
        log.write(f"{text}\n")


class Numbers:
    """Pictures whose every value is the index plus the device times 100; faults by index."""

    def __init__(self, device):
        self.device = device

    def generate(self, indices):
        if "SDXL_TEST_MARK" in os.environ:
            note(f"{os.getpid()} draws {list(indices)}")
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


def loads_every_other_time():
    note("loads")
    loads = Path(os.environ["SDXL_TEST_MARK"]).with_name("log").read_text().count("loads")
    if loads % 2 == 0:
        os._exit(7)
    return open_numbers()


class Unclosable(Numbers):
    def close(self):
        raise StageError("cannot be closed")


def open_unclosable():
    return Unclosable(int(os.environ["CUDA_VISIBLE_DEVICES"]))


def fails_while_loading():
    raise StageError("no such engine")


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made = []

    def make(devices=(0, 1), restarts=1, silence_s=30.0, opened=open_numbers, warm=()):
        made.append(
            Pool(opened, (), devices, BATCH * SIZE * SIZE * 3, preload=(),
                 patience=Patience(60.0, restarts), warm=warm)
        )  # fmt: skip
        made[-1].silence_s = silence_s
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


class Seer(Numbers):
    """Tells what it sees."""

    def describe(self):
        return {"sees": os.environ["CUDA_VISIBLE_DEVICES"]}


def open_seer():
    return Seer(0)


@pytest.mark.parametrize(
    ("visible", "sees"),
    [("2, 3", ["2", "3", ""]), ("", ["", "", ""]), ("GPU-a", ["GPU-a", "", ""])],
)
def test_no_worker_sees_a_device_that_its_place_does_not_have(pool, monkeypatch, visible, sees):
    """A place past the end of the list is not the device of that number: another has that one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    made = pool((0, 1, 2), opened=open_seer)
    assert [lane.facts["sees"] for lane in made.lanes] == sees


def test_a_killed_worker_is_replaced_and_its_batch_given_to_the_next(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("SDXL_TEST_MARK", str(tmp_path / "mark"))
    made = pool((0,))
    first = made.lanes[0].pid
    assert value(made.lanes[0].generate([5, 69])) == [5, 69]
    assert made.lanes[0].pid != first
    (death,) = made.deaths
    assert death["device"] == 0 and death["how"] == "SIGKILL"
    assert death["samples_issued_again"] == 2


@pytest.fixture
def log(tmp_path, monkeypatch):
    """What the workers noted, in its order."""
    monkeypatch.setenv("SDXL_TEST_MARK", str(tmp_path / "mark"))
    return lambda: (tmp_path / "log").read_text().splitlines()


def test_a_replacement_is_warm_before_it_is_given_samples(pool, log):
    made = pool((0,), warm=[range(1), range(BATCH)])
    (lane,) = made.lanes
    first = lane.pid
    assert value(lane.generate([5, 69])) == [5, 69]
    assert log() == [
        f"{first} draws [5, 69]",
        f"{lane.pid} draws [0]",
        f"{lane.pid} draws [0, 1, 2, 3]",
        f"{lane.pid} draws [5, 69]",
    ]
    assert made.answers == 5, "loading twice, both warm-up batches and the picture, but no death"


def test_death_while_loading_again_counts_and_the_batch_is_still_drawn(pool, log):
    """It dies at work; its successor while loading; the third lives."""
    made = pool((0,), restarts=2, opened=loads_every_other_time)
    assert value(made.lanes[0].generate([5, 69])) == [5, 69]
    assert [(d["while"], d["how"], d["samples_issued_again"]) for d in made.deaths] == [
        ("drawing", "SIGKILL", 2),
        ("loading", "exit code 7", 0),
    ]
    assert log().count("loads") == 3


def test_death_in_the_warm_up_counts_and_the_batch_is_still_drawn(pool, log):
    made = pool((0,), restarts=2, warm=[[69]])
    os.kill(made.lanes[0].pid, signal.SIGKILL)
    assert value(made.lanes[0].generate([7])) == [7]
    assert [death["while"] for death in made.deaths] == ["drawing", "warming up"]
    assert value(made.lanes[0].generate([8])) == [8] and len(made.deaths) == 2


def test_a_replacement_that_always_dies_in_the_warm_up_ends_the_run(pool):
    made = pool((0,), restarts=3, warm=[[66]])
    os.kill(made.lanes[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL") as caught:
        made.lanes[0].generate([1])
    assert "while warming up" in caught.value.problems[0].got
    assert len(made.deaths) == 4


def test_killed_while_it_is_sent_work_is_replaced(pool):
    """The message is larger than a pipe: it is cut in the middle."""
    made = pool((0,))
    (lane,) = made.lanes
    process = psutil.Process(lane.pid)
    process.suspend()
    killer = threading.Timer(0.2, process.kill)
    killer.start()
    with pytest.raises(SdxlError):  # of its successor: no block holds as many pictures
        lane.generate([1] * 300_000)
    killer.join()
    assert [death["how"] for death in made.deaths] == ["SIGKILL"]


def test_a_worker_that_cannot_be_closed_does_not_keep_the_others(pool):
    before = shared_blocks()
    made = pool((0, 1), opened=open_unclosable)
    workers = [psutil.Process(lane.pid) for lane in made.lanes]
    made.close()
    assert not any(worker.is_running() for worker in workers)
    assert shared_blocks() <= before


def test_nobody_is_replaced_once_the_pool_is_abandoned(pool):
    made = pool((0,), restarts=100)
    made.abandon()
    with pytest.raises(WorkerDied):
        made.lanes[0].generate([1])


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
    assert [*made.deaths] == []


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
    psutil.wait_procs(workers, timeout=60)
    assert all(not w.is_running() or w.status() == psutil.STATUS_ZOMBIE for w in workers)
    assert shared_blocks() <= before
