"""The system under test loses no sample, doubles none, and keeps its batches and deadlines."""

import threading
import time
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdxl.bench.batching import Batching, Pace
from sdxl.bench.sut import Sut
from sdxl.config.derive import batch_size
from sdxl.core.types import Sample

PICTURE = np.zeros((1, 2, 2, 3), np.uint8)


class Harness:
    """A `Sut` whose generator and completions are written down."""

    def __init__(
        self, batch=4, inline=False, max_wait_s=0.0, generate=None, limit_s=None, sizes=()
    ):
        self.batches, self.times, self.errors, self.inline = [], [], [], inline
        self.failed = threading.Event()
        self.sut = Sut(
            generate or (lambda indices: np.repeat(PICTURE, len(indices), axis=0)),
            self.complete,
            self.on_error,
            Batching(batch, inline, max_wait_s, limit_s, sizes),
        )

    def complete(self, batch, images):
        assert len(batch) == len(images)
        self.times.append(time.perf_counter())
        self.batches.append(batch)

    def on_error(self, error):
        self.errors.append(error)
        self.failed.set()

    def start(self):
        self.thread = threading.Thread(target=self.sut.serve, daemon=True)
        self.thread.start()

    def close(self):
        self.sut.close()
        self.thread.join(30)

    def run(self, sizes, pause_s=0.0):
        self.start()
        ids = iter(range(sum(sizes)))
        issued = []
        for size in sizes:
            query = [Sample(n, n * 7 % 5) for n in islice(ids, size)]
            issued += query if self.inline else sorted(query, key=lambda sample: sample.index)
            self.sut.issue(query)
            time.sleep(pause_s)
        self.close()
        return issued

    @property
    def done(self):
        return [sample for batch in self.batches for sample in batch]


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    batch=st.integers(1, 9),
    inline=st.booleans(),
    max_wait_s=st.sampled_from([0.0, 0.001]),
)
def test_every_sample_is_completed_exactly_once_in_order(sizes, batch, inline, max_wait_s):
    harness = Harness(batch, inline, max_wait_s)
    issued = harness.run(sizes)
    assert harness.done == issued
    assert max(map(len, harness.batches)) <= batch
    counts = harness.sut.counts
    assert counts.issued == counts.done == sum(sizes)
    assert counts.batches == len(harness.batches)
    assert not harness.errors


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=1), batch=st.integers(1, 9))
def test_inline_answers_before_issue_returns_and_splits_queries_evenly(sizes, batch):
    harness = Harness(batch, inline=True)
    for start, size in enumerate(sizes):
        harness.sut.issue([Sample(start * 100 + n, 0) for n in range(size)])
        assert len(harness.done) == sum(sizes[: start + 1])
    full, rest = zip(*(divmod(size, batch) for size in sizes), strict=True)
    assert len(harness.batches) == sum(full) + sum(map(bool, rest))


def test_one_big_query_is_cut_into_full_batches_and_a_rest():
    harness = Harness(batch=8)
    harness.run([27])
    assert [len(batch) for batch in harness.batches] == [8, 8, 8, 3]


def test_a_full_batch_does_not_wait():
    harness = Harness(batch=2, max_wait_s=30.0)
    harness.start()
    began = time.perf_counter()
    harness.sut.issue([Sample(0, 0)])
    harness.sut.issue([Sample(1, 1)])
    while len(harness.done) < 2:
        assert time.perf_counter() - began < 10
        time.sleep(0.001)
    assert [len(batch) for batch in harness.batches] == [2]
    harness.close()


def test_a_batch_waits_for_company_until_its_oldest_samples_deadline():
    harness = Harness(batch=8, max_wait_s=0.3)
    harness.start()
    began = time.perf_counter()
    for number in range(3):
        harness.sut.issue([Sample(number, 0)])
        time.sleep(0.05)
    while not harness.done:
        assert time.perf_counter() - began < 10
        time.sleep(0.001)
    assert [len(batch) for batch in harness.batches] == [3], "latecomers joined"
    assert 0.29 < harness.times[0] - began < 3, "and did not move the deadline"
    harness.close()


def test_without_patience_a_lone_sample_goes_at_once():
    harness = Harness(batch=8, max_wait_s=0.0)
    harness.start()
    began = time.perf_counter()
    harness.sut.issue([Sample(0, 0)])
    while not harness.done:
        assert time.perf_counter() - began < 10
        time.sleep(0.001)
    harness.close()


def test_close_drains_what_waits():
    harness = Harness(batch=8, max_wait_s=60.0)
    began = time.perf_counter()
    harness.run([3])
    assert len(harness.done) == 3 and time.perf_counter() - began < 10


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, SystemExit, KeyboardInterrupt])
def test_the_first_exception_stops_everything_and_is_handed_over(inline, kind):
    """It must not cross into LoadGen, which would abort the process."""
    calls = []

    def generate(indices):
        calls.append(list(indices))
        raise kind("broken")

    harness = Harness(2, inline, generate=generate)
    harness.start()
    harness.sut.issue([Sample(n, n) for n in range(6)])
    assert harness.failed.wait(10)
    harness.close()
    assert calls == [[0, 1]] and [type(error) for error in harness.errors] == [kind]
    assert not harness.done


@pytest.mark.parametrize("inline", [True, False])
def test_a_generator_that_loses_a_picture_is_an_error(inline):
    harness = Harness(4, inline, generate=lambda _: np.repeat(PICTURE, 3, axis=0))
    harness.start()
    harness.sut.issue([Sample(n, n) for n in range(4)])
    assert harness.failed.wait(10)
    harness.close()
    assert "4 prompts gave 3 pictures" in str(harness.errors[0])
    assert harness.sut.counts.done == 0


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["scenario=Offline"], 8),
        (["scenario=Server"], 8),
        (["scenario=SingleStream"], 1),
        (["scenario=MultiStream"], 2),
        (["scenario=MultiStream", "scenario.samples_per_query=5"], 5),
        (["scenario=MultiStream", "scenario.samples_per_query=5", "backend.batch_size=2"], 2),
        (["scenario=Offline", "backend.batch_size=3"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_batch_size_is_the_configured_or_the_scenarios(load, words, size):
    assert batch_size(load(*words)) == size


def test_one_query_is_worked_off_in_the_order_of_its_indices():
    harness = Harness(batch=4)
    harness.start()
    harness.sut.issue([Sample(n, index) for n, index in enumerate([5, 0, 3, 5, 1, 4, 2])])
    harness.close()
    assert [[s.index for s in batch] for batch in harness.batches] == [[0, 1, 2, 3], [4, 5, 5]]


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=10), lanes=st.integers(2, 4))
def test_several_lanes_share_the_work_and_lose_nothing(sizes, lanes):
    harness = Harness(batch=4, max_wait_s=0.001)
    mine = [[] for _ in range(lanes)]

    def lane(number):
        def generate(indices):
            mine[number].extend(indices)
            return np.repeat(PICTURE, len(indices), axis=0)

        harness.sut.serve(generate)

    threads = [threading.Thread(target=lane, args=(n,), daemon=True) for n in range(lanes)]
    for thread in threads:
        thread.start()
    total = 0
    for size in sizes:
        harness.sut.issue([Sample(total + n, n) for n in range(size)])
        total += size
    harness.sut.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(sample.id for sample in harness.done) == list(range(total))
    assert sum(map(len, mine)) == total == harness.sut.counts.done


def test_lanes_of_equal_speed_get_equal_shares():
    harness = Harness(batch=2)
    mine = [0, 0]

    def lane(number):
        def generate(indices):
            mine[number] += 1
            time.sleep(0.01)  # the device at work
            return np.repeat(PICTURE, len(indices), axis=0)

        harness.sut.serve(generate)

    threads = [threading.Thread(target=lane, args=(n,), daemon=True) for n in range(2)]
    harness.sut.issue([Sample(n, n) for n in range(80)])
    for thread in threads:
        thread.start()
    harness.sut.close()
    for thread in threads:
        thread.join(30)
    assert sum(mine) == 40 and min(mine) >= 15


def test_pace_is_learnt_by_size():
    pace = Pace()
    assert pace.of(4) == 0.0
    pace.note(1, 1.0)
    pace.note(5, 3.0)
    assert [pace.of(size) for size in (1, 3, 5, 9)] == [1.0, 2.0, 3.0, 3.0]
    for seconds in (1.0, 1.0, 1.0, 300.0, 1.0):  # one had to wait for a new worker
        pace.note(8, seconds)
        assert pace.of(8) == 1.0
    for _ in range(3):
        pace.note(8, 2.0)
    assert pace.of(8) == 2.0, "a lasting change is learnt"


def test_a_batch_goes_early_where_its_oldest_sample_would_miss_the_limit():
    harness = Harness(batch=8, max_wait_s=30.0, limit_s=1.0)
    harness.sut.batches.pace.note(8, 0.7)
    harness.start()
    began = time.perf_counter()
    harness.sut.issue([Sample(0, 0)])
    while not harness.done:
        assert time.perf_counter() - began < 10
        time.sleep(0.001)
    assert 0.2 < harness.times[0] - began < 2, "0.95 of the limit less the batch's own time"
    harness.close()


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ({1: 0.125, 8: 1.0}, [4, 8]),  # as cheap per image: cut to what ends in time
        ({1: 0.9, 8: 1.0}, [8, 4]),  # cutting would cost throughput: the full batch, late or not
    ],
)
def test_a_late_batch_is_cut_only_where_that_costs_nothing(seconds, wanted):
    harness = Harness(batch=8, limit_s=1.0)
    for size, each in seconds.items():
        harness.sut.batches.pace.note(size, each)
    waiting = harness.sut.batches.waiting
    waiting.extend((Sample(n, 0), time.perf_counter() - 0.4) for n in range(12))
    assert [len(harness.sut.batches.take())] == wanted[:1]
    waiting.clear()
    waiting.extend((Sample(n, 0), time.perf_counter() + 5) for n in range(wanted[1]))
    harness.sut.close()
    assert [len(harness.sut.batches.take())] == wanted[1:]
