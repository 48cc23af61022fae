"""The simulation of a fleet: everybody is answered or refused, and its figures make sense."""

import argparse

import numpy as np
import pytest

from tests.run.serve import conftest  # noqa: F401  finds the benchmarks

import scale  # isort: skip


def fleet(count=2, **changed):
    usual = {"batch": 4, "batch_s": 1.0, "fixed": 0.2, "max_wait_s": 0.1, "queue": 8}
    return scale.Fleet(count, argparse.Namespace(**usual | changed))


def test_a_lonely_request_waits_for_its_batch_and_is_drawn_alone():
    found = fleet().run(rate=0.01, seconds=5000)
    assert np.median(found.seconds) == pytest.approx(0.1 + 0.2 + 0.2)
    assert found.batches == len(found.seconds) and found.full == 0


@pytest.mark.parametrize(("load", "refuses"), [(0.5, False), (1.5, True)])
def test_what_is_above_the_rate_is_refused_and_nothing_is_lost(load, refuses):
    rate, seconds = load * 2 * 4, 200.0
    found = fleet().run(rate, seconds)
    assert len(found.seconds) + found.full == pytest.approx(rate * seconds, rel=0.1)
    assert (found.full > 0) is refuses
    drawn = len(found.seconds) / found.now
    assert drawn == pytest.approx(min(load, 1.0) * 8, rel=0.1)
    assert max(found.seconds) < 0.1 + (8 / 4 + 2) * 1.0, "a bounded queue bounds the wait"
