"""Who else uses the machine, from the processor times of everybody."""

import os

from sdxl.core import busy


def test_processor_time_of_others_is_what_is_not_ours(monkeypatch):
    times = iter([(0.0, 100.0, 5.0), (0.1, 100.1, 5.1), (1.0, 103.0, 6.0), (1.1, 103.1, 6.1)])
    monkeypatch.setattr(busy, "_now", lambda: next(times))
    monkeypatch.setattr(busy.time, "sleep", lambda _: None)
    watch = busy.Watch()
    assert watch.elsewhere() == 2.0, "too short a look is looked at again"
    assert abs(watch.elsewhere() - 2.0 / 1.1) < 1e-9, "never since less than LEAST_S"


def test_a_share_of_the_machine_counts(monkeypatch):
    assert not busy.is_busy(0.2, 2) and busy.is_busy(0.25, 2)
    assert not busy.is_busy(3.0, 64) and busy.is_busy(3.3, 64)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert busy.is_busy(0.3)


def test_time_goes_on():
    before = busy.machine_seconds()
    sum(n * n for n in range(300_000))
    assert busy.machine_seconds() >= before
