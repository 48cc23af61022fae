"""`benchmarks/rivals_cpu.py`: which turns count, and what a row makes of them."""

import importlib
import sys
import time

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def rivals():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("rivals_cpu")
        for name in ("rivals_cpu", "_rivals"):
            sys.modules.pop(name, None)


class Told:
    """A gauge that reads what it is told."""

    def __init__(self, calm, *readings):
        self.calm, self.readings = calm, iter(readings)

    def read(self):
        return next(self.readings)


def test_a_disturbed_turn_does_not_count(rivals):
    gauge = rivals.Gauge(1)
    gauge.least = 1.0
    gauge._library = object()  # there is something to read
    told = Told(gauge.calm, 1.0, 1.1, 1.0, 2.0, 1.2, 1.25)
    drawn = []
    turns, rounds = rivals.timed({"a": 1}, drawn.append, 2, told)
    assert drawn == [1, 1, 1] and rounds == 3
    assert [reading for *_, reading in turns["a"]] == [1.1, 1.25]


def test_where_it_is_never_calm_the_rounds_end_and_all_of_them_count(rivals):
    told = Told(lambda reading: reading < 2, *[9.0] * 100)
    turns, rounds = rivals.timed({"a": 1}, lambda call: None, 3, told)
    assert rounds == 3 * rivals.AT_MOST == len(turns["a"])


def test_a_calm_reference_is_not_compared_with_a_disturbed_rival(rivals):
    """The second of the two is never left alone: each has all its turns."""
    told = Told(lambda reading: reading < 2, *[1.0, 1.0, 9.0, 9.0, 9.0, 9.0, 1.0, 1.0] * 100)
    turns, rounds = rivals.timed({"b": 1, "a": 2}, lambda call: None, 2, told)
    assert rounds == 2 * rivals.AT_MOST and {len(each) for each in turns.values()} == {rounds}
    assert {reading for *_, reading in turns["a"]} == {1.0}


def test_turns_measure_the_call(rivals):
    turns, _ = rivals.timed({"a": 0.02, "b": 0}, time.sleep, 3, rivals.Gauge(1))
    assert min(wall for wall, *_ in turns["a"]) >= 0.02 > max(wall for wall, *_ in turns["b"])
    assert max(spent for _, spent, _ in turns["a"]) < 0.02  # nobody computed


def test_a_row_is_the_ratio_of_medians_with_an_interval_or_of_few_turns_the_range(rivals):
    def turns(*walls):
        return [(wall, 2 * wall, 0.0) for wall in walls]

    found = {rivals.REFERENCE: turns(4, 5, 6), "fast": turns(2, 2.5, 4)}
    near = {name: {"ssim": 1.0} for name in found}
    row = rivals.measured(found, 7, near)["fast"]
    assert row["wall_s_speed_up"] == row["cpu_s_speed_up"] == [1.0, 2.0, 3.0]
    assert (row["wall_s"], row["cpu_s"], row["turns"], row["rounds"]) == (2.5, 5.0, 3, 7)
    many = {rivals.REFERENCE: turns(*[4, 5, 6] * 9), "fast": turns(*[2, 2.5, 4] * 9)}
    low, middle, high = rivals.measured(many, 27, near)["fast"]["wall_s_speed_up"]
    assert 1.0 < low < middle == 2.0 < high < 3.0
