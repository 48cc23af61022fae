"""An empty parallel region: timed around a measurement, its least kept until the next start."""

import json
import sys

import pytest
import torch  # brings OpenMP

from sdxl.bench import parallel_region
from sdxl.bench.parallel_region import Around, Gauge, doubt
from sdxl.core import store


@pytest.fixture
def readings(monkeypatch):
    """What gauges are going to read."""
    coming = []

    def read(self):
        now = coming.pop(0)
        self.least = min(self.least, now)
        return now

    monkeypatch.setattr(Gauge, "read", read)
    monkeypatch.setattr(Gauge, "there", True)
    return coming


def around(readings, *values):
    readings += values
    with Around() as host:
        pass
    return host.facts


def test_the_gauge_times_a_parallel_region():
    gauge = Gauge(2)
    if not gauge.there:
        pytest.skip("no GNU OpenMP in this torch")
    found = [gauge.read() for _ in range(3)]
    assert gauge.least == min(found) > 0
    assert gauge.calm(gauge.least, 1.29 * gauge.least) and not gauge.calm(1.31 * gauge.least)


def test_one_thread_waits_for_no_other():
    gauge = Gauge(1)
    assert not gauge.there and gauge.read() == 0.0 and gauge.calm(9.0)
    assert torch.get_num_threads() == 1, "as tests have it"
    with Around() as host:
        pass
    assert host.facts == {} and doubt(host.facts) is None


def test_without_torch_nothing_is_loaded_for_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with Around() as host:
        pass
    assert host.facts == {} and "torch" not in sys.modules


def test_the_least_is_kept_until_the_machine_starts_again(readings, tmp_path, monkeypatch):
    boot = tmp_path / "boot"
    boot.write_text("first\n")
    monkeypatch.setattr(parallel_region, "_BOOT", boot)
    assert around(readings, 1.2, 1.3)["least_us"] == 1.2
    disturbed = around(readings, 1.9, 1.25)
    assert disturbed == {"threads": 1, "before_us": 1.9, "after_us": 1.25, "least_us": 1.2}
    assert "1.9 us, 1.2 us at best" in doubt(disturbed)
    assert doubt(around(readings, 1.7, 1.75)) is None, "within 1.5"
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert around(readings, 17.0, 16.0)["least_us"] == 16.0, "threads that sleep take longer"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    boot.write_text("second\n")
    assert around(readings, 1.9, 1.95)["least_us"] == 1.9, "perhaps another host"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot": "", "least_us": 3}',
                                  '{"boot": "", "least_us": {"1 threads": "x"}}'])  # fmt: skip
def test_a_damaged_file_is_none(readings, tmp_path, monkeypatch, text):
    monkeypatch.setattr(parallel_region, "_BOOT", tmp_path / "none")
    path = store.root() / "rooflines" / "parallel_region.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert around(readings, 1.2, 1.3)["least_us"] == 1.2
    assert json.loads(path.read_text()) == {"boot": "", "least_us": {"1 threads": 1.2}}
