"""The search for Server's peak: bracket, bisection, resumption; once with real LoadGen."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdxl.core.errors import SdxlError
from sdxl.core.record import Performance
from sdxl.run import identity, peak


class Queue:
    """The Server scenario worked out, second by second: Poisson arrivals, batches that take equal
    time, VALID if LoadGen's early stopping accepts the share of queries within the limit.
    """

    batch, batch_s, limit_s, test_s, percentile = 40, 0.05, 0.4, 20.0, 0.9
    capacity = batch / batch_s

    def __init__(self, seed):
        self.seed = seed

    def valid(self, rate):
        arrivals = np.random.default_rng(self.seed).exponential(1 / rate, int(rate * self.test_s))
        arrivals = arrivals.cumsum()
        count, first, free, late = len(arrivals), 0, 0.0, 0
        while first < count:
            filled = arrivals[min(first + self.batch, count) - 1]
            goes = max(free, min(filled, arrivals[first] + self.batch_s))
            after = min(first + self.batch, int(np.searchsorted(arrivals, goes, "right")))
            free = goes + self.batch_s
            late += int((free - arrivals[first:after] > self.limit_s).sum())
            first = after
        allowed = count * (1 - self.percentile)
        return late <= allowed - 2.33 * math.sqrt(allowed * self.percentile)


def run_search(valid, first):
    """The rates asked for, and the highest that held."""
    probes, rate = [], first
    while rate is not None:
        probes.append({"qps": rate, "valid": valid(rate), "reason": "too slow"})
        rate = peak.propose(probes)
        assert len(probes) < 60
    return probes, max(probe["qps"] for probe in probes if probe["valid"])


class Device:
    """A stand-in for a measurement: VALID up to its capacity."""

    def __init__(self, capacity, warm_up=100.0, stop_after=None):
        self.capacity, self.warm_up, self.stop_after = capacity, warm_up, stop_after
        self.asked = []

    def once(self, config, folder, record):
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        rate = config.scenario.target_qps or 0.6 * self.warm_up
        assert not config.find_peak and rate not in self.asked[:-1], "twice only to make sure"
        self.asked.append(rate)
        folder.mkdir(parents=True)
        (folder / "worker.log").write_text(f"{rate}")
        valid = rate <= self.capacity
        record.status, record.reason = ("ok", "") if valid else ("invalid", "too slow")
        record.performance = Performance(
            settings={"server_target_qps": rate}, latency_ms={"p99": 1.0}, value=rate
        )


def search(load, tmp_path, device, *words, number=0):
    config = load("backend=fake", "scenario=Server", "find_peak=true", *words)
    record = identity.new(config)
    peak.search(config, tmp_path / f"run{number}", record, device.once)
    return record


@settings(max_examples=60, deadline=None)
@given(capacity=st.floats(0.5, 5e4))
def test_the_peak_is_within_the_tolerance_of_the_capacity(capacity):
    probes, held = run_search(lambda rate: rate <= capacity, 60.0)
    assert held <= capacity <= held * (1 + peak.TOLERANCE) * 1.001
    failed = [probe["qps"] for probe in probes if not probe["valid"]]
    assert failed.count(min(failed)) == 2, "what bounds the peak from above has failed twice"


@settings(max_examples=60, deadline=None)
@given(capacity=st.floats(5, 5e4), disturbed=st.integers(0, 20))
def test_one_disturbed_probe_does_not_hide_the_peak(capacity, disturbed):
    left = [disturbed]

    def valid(rate):
        left[0] -= 1
        return rate <= capacity and left[0] != -1

    held = run_search(valid, 60.0)[1]
    assert held <= capacity <= held * (1 + peak.TOLERANCE) * 1.001


@pytest.mark.parametrize("seed", range(6))
def test_with_poisson_arrivals_the_peak_is_within_5_percent_of_the_capacity(seed):
    """As benchmarks/find_peak.py has it, without a clock."""
    queue = Queue(seed)
    held = run_search(queue.valid, 0.75 * queue.capacity)[1]
    assert held == pytest.approx(queue.capacity, rel=0.05)


def test_the_record_is_the_fastest_probes_with_all_probes_listed(load, tmp_path):
    device = Device(137.0)
    record = search(load, tmp_path, device)
    found = record.performance.peak.to_json()
    assert found["qps"] <= 137 < found["fails_at"] <= 1.01 * found["qps"]
    assert record.status == "ok" and record.performance.value == found["qps"]
    assert [probe["qps"] for probe in found["probes"]] == device.asked
    assert device.asked[0] == 60, "the warm-up's guess"
    assert record.config["find_peak"] is True
    assert (tmp_path / "run0/worker.log").read_text() == str(found["qps"])
    for probe in found["probes"]:
        stored = json.loads(open(probe["record"]).read())  # noqa: PTH123, SIM115
        assert stored["performance"]["settings"]["server_target_qps"] == probe["qps"]
        assert stored["config"]["find_peak"] is False


def test_an_interrupted_search_goes_on_where_it_was(load, tmp_path):
    whole = Device(88.0)
    search(load, tmp_path, whole)
    first = Device(88.0, stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        search(load, tmp_path, first, number=1)
    second = Device(88.0)
    record = search(load, tmp_path, second, number=2)
    assert first.asked + second.asked == whole.asked
    assert [p["qps"] for p in record.performance.peak.probes] == whole.asked
    third = Device(88.0)
    search(load, tmp_path, third, number=3)
    assert third.asked == whole.asked, "a finished search is no interrupted one"


def test_rerun_all_starts_again(load, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        search(load, tmp_path, Device(88.0, stop_after=2))
    again = Device(88.0)
    search(load, tmp_path, again, "rerun=all", number=1)
    assert again.asked[0] == 60


def test_the_users_rate_is_the_first(load, tmp_path):
    device = Device(10.0)
    search(load, tmp_path, device, "scenario.target_qps=80")
    assert device.asked[:4] == [80, 40, 20, 10]


def test_without_a_rate_that_holds_it_says_so(load, tmp_path):
    with pytest.raises(SdxlError, match="no rate keeps the latency limit"):
        search(load, tmp_path, Device(0.0))
    again = Device(88.0)
    search(load, tmp_path, again, number=1)
    assert again.asked[0] == 60, "a search that found nothing is no interrupted one"


def test_settings_that_make_no_sense_are_refused(cli):
    done = cli("backend=fake", "find_peak=true")
    assert done.code == 2 and "scenario=Server find_peak=true" in done.err


@pytest.mark.slow
def test_real_loadgen_finds_a_known_capacity(cli):
    """160 images/s by construction; benchmarks/find_peak.py holds it to 5 %.

    A test of T seconds with limit L lets a backlog grow: 1 + L / T of the capacity is VALID. A
    crowded machine is slower than it says.
    """
    done = cli("backend=fake", "backend.latency_ms=25", "backend.sample_ms=0", "limit=8",
               "backend.batch_size=4", "scenario=Server", "find_peak=true",
               "scenario.target_qps=140", "scenario.target_latency_ms=200",
               "scenario.min_duration_ms=2000", "scenario.max_wait_ms=20")  # fmt: skip
    assert done.code == 0, done.err
    found = done.record["performance"]["peak"]
    assert 0.6 * 160 <= found["qps"] <= 1.15 * 160
    assert "queries/s keep the limit" in done.out
    assert [probe["valid"] for probe in found["probes"]].count(True) >= 1
