"""Every order gets its own picture or its own error, whatever happens to workers."""

import os
import signal
import threading
import time
from collections import deque

import numpy as np
import pytest

from sdxl.bench import pool
from sdxl.core.errors import SdxlError, StageError
from sdxl.core.isolate import WorkerDied
from sdxl.core.types import Order
from sdxl.run.serve.engine import Engine, Full, Job
from tests.run.serve import odd
from tests.run.serve.conftest import configured


def orders(*seeds):
    return [Order("x", seed) for seed in seeds]


def drawn(engine, *seeds):
    return [job.done.result(60) for job in engine.submit(orders(*seeds))]


def eventually(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_each_order_gets_its_picture_and_prompts_that_are_cut_are_told(engine):
    found = drawn(engine, 1, 2, odd.CUT, 3, 4)  # two batches
    for seed, each in zip((1, 2, odd.CUT, 3, 4), found, strict=True):
        assert np.array_equal(each.picture, odd.picture(seed))
    assert [each.cut for each in found] == [False, False, True, False, False]
    assert engine.ready and engine.waiting == 0


def test_a_worker_that_dies_is_replaced_and_its_batch_drawn(engine):
    deaths = len(engine.facts["deaths"])
    found = drawn(engine, 5, odd.KILLS_ONCE)
    assert np.array_equal(found[0].picture, odd.picture(5))
    assert len(engine.facts["deaths"]) == deaths + 1


def test_a_worker_that_dies_in_its_sleep_is_replaced_unasked(engine):
    (before,) = engine.pids
    os.kill(before, signal.SIGKILL)
    eventually(lambda: engine.pids != [before])
    assert drawn(engine, 6)[0].picture[0, 0, 0] == 6


def test_a_batch_that_kills_every_worker_fails_alone(engine):
    with pytest.raises(WorkerDied, match="died") as died:
        drawn(engine, odd.KILLS)
    assert died.value.problems[0].fix is None, "no other setting helps"
    assert drawn(engine, 7)[0].picture[0, 0, 0] == 7
    eventually(lambda: engine.ready)


def test_a_picture_that_is_none_costs_no_worker(engine):
    before = engine.pids
    for seed in (odd.NOT_FINITE, odd.CONSTANT):
        with pytest.raises(SdxlError, match=r"NaN|constant"):
            drawn(engine, seed)
    bad, good = engine.submit(orders(odd.CONSTANT, 8))
    with pytest.raises(StageError, match="constant"):
        bad.done.result(60)
    assert good.done.result(60).picture[0, 0, 0] == 8
    assert engine.pids == before


def test_in_a_batch_only_the_order_that_is_at_fault_fails(engine):
    """A worker that it kills is replaced; the others of its batch are drawn in batches of one."""
    deaths = engine.deaths
    slow, *_ = engine.submit(orders(odd.SLOW))
    eventually(lambda: engine.waiting == 0)  # so that the next four are one batch
    one, kills, no_picture, two = engine.submit(orders(1, odd.KILLS, odd.NOT_FINITE, 2))
    assert [each.done.result(60).picture[0, 0, 0] for each in (slow, one, two)] == [odd.SLOW, 1, 2]
    with pytest.raises(WorkerDied):
        kills.done.result(60)
    with pytest.raises(SdxlError, match="NaN"):
        no_picture.done.result(60)
    assert engine.deaths == deaths + 4, "two of the batch, two of the order alone"
    assert drawn(engine, 3)[0].picture[0, 0, 0] == 3 and engine.ready


def test_where_no_worker_can_be_had_a_batch_fails_together(engine):
    tries = []

    class Dead:
        number, device, alive = 99, 0, False

        def revive(self):
            tries.append("revive")
            raise WorkerDied("no worker lives")

        def generate(self, batch):
            tries.append(len(batch))
            raise WorkerDied("no worker lives")

    jobs = [Job(order) for order in orders(1, 2, 3)]
    engine._draw(Dead(), jobs)
    assert all(isinstance(job.done.exception(0), WorkerDied) for job in jobs)
    assert tries == [3, "revive"]
    engine._broken.discard(99)


def test_deaths_are_counted_for_ever_and_described_for_a_while(engine, monkeypatch):
    assert engine._pool.deaths.maxlen == pool.DEATHS_KEPT
    monkeypatch.setattr(engine._pool, "deaths", deque(maxlen=1))
    deaths = engine.deaths
    with pytest.raises(WorkerDied):
        drawn(engine, odd.KILLS)
    assert engine.deaths == deaths + 2
    assert len(engine.facts["deaths"]) == 1 and engine.facts["earlier_deaths"] == deaths + 1


def test_the_queue_is_bounded_and_what_is_taken_back_is_not_drawn(engine):
    slow = engine.submit(orders(odd.SLOW))
    eventually(lambda: engine.waiting == 0)
    waiting = engine.submit(orders(*range(8)))
    with pytest.raises(Full) as full:
        engine.submit(orders(9))
    assert full.value.retry_s >= 1
    batches = []
    engine._on_batch, was = (lambda size, _: batches.append(size)), engine._on_batch
    assert all(job.done.cancel() for job in waiting[:6])
    assert engine.waiting <= 2, "their places are free at once"
    assert [job.done.result(60).picture[0, 0, 0] for job in waiting[6:]] == [6, 7]
    assert slow[0].done.result(60)
    engine._on_batch = was
    assert sum(batches) == 3, "the slow one and two of eight"


def test_an_engine_that_closes_draws_what_it_accepted(monkeypatch):
    from sdxl.bench import generators
    from tests.run.serve.conftest import odd_pool

    monkeypatch.setattr(generators, "open_pool", odd_pool)
    engine = Engine(configured("--devices", "0,1"), {}, 8)
    assert not engine.ready and engine.facts == {}
    engine.open()
    assert engine.ready and len(set(engine.pids)) == 2
    jobs = engine.submit(orders(*range(8)))
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert [job.done.result(60).picture[0, 0, 0] for job in jobs] == [*range(8)]
    closing.join(60)
    assert not closing.is_alive()
