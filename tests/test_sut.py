"""The system under test loses no sample, doubles none, and keeps its batches and deadlines."""

import threading
import time
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdxl.bench.sut import Sample, Sut, batch_size

PICTURE = np.zeros((1, 2, 2, 3), np.uint8)


class Harness:
    """A `Sut` whose generator and completions are written down."""

    def __init__(self, batch=4, inline=False, max_wait_s=0.0, generate=None):
        self.batches, self.times, self.errors = [], [], []
        self.failed = threading.Event()
        self.sut = Sut(
            generate or (lambda indices: np.repeat(PICTURE, len(indices), axis=0)),
            self.complete,
            self.on_error,
            batch_size=batch,
            inline=inline,
            max_wait_s=max_wait_s,
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
            issued += query
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
