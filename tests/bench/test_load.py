"""Load on a system of known capacity: the knee, over-saturation, goodput, a trace.

Time is virtual: no figure depends on what else the machine does.
"""

import numpy as np
import pytest

from sdxl.bench import batching, load, sut
from sdxl.bench.arrivals import read_trace
from sdxl.bench.batching import Batching
from tests.bench.virtual_time import World

BATCH, BATCH_S = 8, 0.1
CAPACITY = BATCH / BATCH_S


@pytest.fixture(autouse=True)
def world(monkeypatch):
    made = World()
    for module in (batching, load, sut):
        monkeypatch.setattr(module, "time", made)
        monkeypatch.setattr(module, "threading", made)
    return made


@pytest.fixture
def system(world):
    """A system whose batches all take equal time."""

    def make(lanes=1, batch_s=BATCH_S, batch=BATCH, **more):
        def draw(indices):
            world.sleep(batch_s)
            return np.zeros((len(indices), 1, 1, 3), np.uint8)

        def failed(error):
            raise error

        return load.System([draw] * lanes, Batching(batch, max_wait_s=0.05, limit_s=10.0), 16,
                           lambda batch, images: None, failed, **more)  # fmt: skip

    return make


def asked(duration_s=2.0, limit_ms=1000.0, least=1):
    return load.Load(duration_s, least, limit_ms, 0.99, 0)


def test_the_knee_of_a_known_capacity_is_found_within_5_percent(system):
    ours = system()
    points = list(load.ladder(ours, asked(), [0.5 * CAPACITY, 1.5 * CAPACITY], [1, 16], None))
    found = load.summary(points, asked())
    assert found["knee"] == pytest.approx(CAPACITY, rel=0.01)
    assert [(each.kind, each.saturated) for each in points] == [
        ("in flight", False), ("in flight", False), ("rate", False), ("rate", True)
    ]  # fmt: skip
    one, full, half, over = points
    assert one.p50 == pytest.approx(1e3 * (BATCH_S + 0.05), rel=0.01), "it waits for company"
    assert full.p50 == pytest.approx(2e3 * BATCH_S, rel=0.01), "two batches are under way"
    assert half.offered == 0.5 * CAPACITY and half.p50 < over.p50
    assert found["saturated_at"] == 1.5 * CAPACITY
    assert found["within_limit"] == half.completed, "what saturates keeps no limit for long"
    assert ours.counts.done == ours.counts.issued == sum(each.requests for each in points)
    assert len(ours.latencies_s) == ours.counts.done


def test_the_ladder_stops_where_the_system_cannot_follow(system, world):
    """A rate of ten times the capacity is broken off long before its 1,000 s."""
    ours = system(batch_s=0.01, batch=4)
    began = world.now
    (only,) = load.ladder(ours, asked(1000.0), [4000.0, 5000.0], [], None)
    assert only.saturated and only.asked == 4000.0 and world.now - began < 20
    assert only.requests <= 2 * load.GIVEN_UP * 4


def test_no_more_is_answered_than_arrived(system):
    """Of few requests the first answer comes late and the last soon: their span is too short."""
    (point,) = load.ladder(system(batch_s=0.02), asked(0.1, least=4), [20.0], [], None)
    assert point.requests == 4 and point.completed <= point.offered == 20.0
    assert load.summary([point], asked())["within_limit"] <= 20.0


def test_lanes_add_up(system):
    points = list(load.ladder(system(2), asked(1.0), [], [32], None))
    assert points[0].completed == pytest.approx(2 * CAPACITY, rel=0.05)


def test_its_own_ladder_goes_from_one_request_to_past_the_knee(system):
    ours = system(batch_s=0.02, batch=4)
    points = list(load.ladder(ours, asked(0.5, least=8), None, None, None))
    flights = [each.asked for each in points if each.kind == "in flight"]
    assert flights[:4] == [1, 2, 4, 8]
    rates = [each for each in points if each.kind == "rate"]
    most = max(each.completed for each in points if each.kind == "in flight")
    assert [each.asked / most for each in rates] == pytest.approx(load.SHARES[: len(rates)])
    assert [each.saturated for each in rates[:-1]] == [False] * (len(rates) - 1)


def test_goodput_counts_what_keeps_the_limit(system):
    for limit_ms, share in ((1e4, 1.0), (1.0, 0.0)):
        ours = asked(0.3, limit_ms)
        (point,) = load.ladder(system(batch_s=0.02), ours, [50.0], [], None)
        assert point.goodput == share * point.completed
        best = load.summary([point], ours)["within_limit"]
        assert best == (point.completed if share else None)


def test_a_trace_is_replayed_as_it_was(system, world, tmp_path):
    (tmp_path / "trace").write_text("# arrivals\n10.0\n10.0\n\n10.1\n10.4\n")
    due = read_trace(tmp_path / "trace")
    assert due == pytest.approx([0.0, 0.0, 0.1, 0.4])
    began = world.now
    (point,) = load.ladder(system(batch_s=0.01), asked(), [], [], due)
    assert 0.4 < world.now - began < 5
    assert (point.kind, point.requests) == ("trace", 4)
    assert point.offered == pytest.approx(3 / 0.4)
