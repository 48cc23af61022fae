"""How long a cell will take, from records of the same work."""

import pytest

from sdxl.config.content_key import plain
from sdxl.core.record import Performance, Record
from sdxl.run import estimate

WORDS = ("backend=fake", "limit=8")


@pytest.fixture
def measured(load, monkeypatch):
    """Records of these rates and scenarios, newest first."""

    def there(*found):
        made = []
        for rate, scenario in found:
            config = plain(load(*WORDS, f"scenario={scenario}", "scenario.min_duration_ms=0"))
            record = Record("k", config, "", "ok", performance=Performance(images_per_second=rate))
            record.durations = {"total_s": 7.0, "measure_s": 4.0}
            made.append((record, scenario))
        monkeypatch.setattr(estimate, "_records", lambda: made)

    return there


def test_every_repetition_counts(load, measured):
    measured((4.0, "Offline"))
    once = load(*WORDS, "scenario.min_duration_ms=10000")
    often = load(*WORDS, "scenario.min_duration_ms=10000", "repeat=5")
    assert estimate.seconds(once, 8) == pytest.approx(3 + 10)
    assert estimate.seconds(often, 8) == pytest.approx(5 * (3 + 10))
    assert estimate.least_seconds(often, 8) == 50


def test_a_rate_of_arrivals_is_for_server_alone(load, measured):
    measured((0.5, "Server"), (4.0, "Offline"))
    known = estimate.known(load(*WORDS, "scenario=Offline"))
    assert known and (known.rate, known.source) == (4.0, "Offline")
    served = estimate.known(load(*WORDS, "scenario=Server"))
    assert served and served.rate == 0.5
    measured((0.5, "Server"))
    assert estimate.known(load(*WORDS)) is None
