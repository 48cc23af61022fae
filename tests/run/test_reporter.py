"""Signs of life: a wait for the next request is one only where requests come when they come."""

import time
from types import SimpleNamespace

import pytest

from sdxl.run import reporter
from sdxl.run.reporter import Reporter


@pytest.mark.parametrize(
    ("rests", "issued", "alive"), [(True, 3, True), (True, 4, False), (False, 3, False)]
)
def test_a_pause_between_requests(monkeypatch, rests, issued, alive):
    """Of a load curve with everything answered; one answer that is missing is a stall."""
    monkeypatch.setattr(reporter, "REPORT_EVERY_S", 0.001)
    said = []
    watching = Reporter(said.append, 8, None, rests=rests)
    watching.start(SimpleNamespace(counts=SimpleNamespace(done=3, issued=issued)))
    until = time.monotonic() + 20
    while len(said) < 3 and time.monotonic() < until:
        time.sleep(0.001)
    watching.stop()
    assert (said[0] != said[1]) is alive
