"""What the parent hears while LoadGen holds the measuring process: counts, and signs of life."""

from __future__ import annotations

import threading
from typing import Any

from sdxl.bench.pool import Pool
from sdxl.bench.sut import Sut
from sdxl.config.schema import Scenario
from sdxl.core.progress import Report

REPORT_EVERY_S = 0.25


class Reporter:
    """A thread that reports the SUT's counts from `start` to `stop`.

    rests: requests come when they come, and to wait for the next is a sign of life.
    """

    def __init__(
        self, report: Report, expected: int, pool: Pool | None, rests: bool = False
    ) -> None:
        self._report, self._expected, self._pool, self._rests = report, expected, pool, rests
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, sut: Sut) -> None:
        """Begin reporting."""
        self._thread = threading.Thread(target=self._watch, args=(sut,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reporting."""
        self._over.set()
        if self._thread:
            self._thread.join()

    def _watch(self, sut: Sut) -> None:
        rested = 0
        while not self._over.wait(REPORT_EVERY_S):
            rested += self._rests and sut.counts.done == sut.counts.issued
            self._report(
                {
                    "phase": "measuring",
                    "done": sut.counts.done,
                    "issued": sut.counts.issued,
                    "expected": max(self._expected, sut.counts.issued),
                    # A replacement that loads and warms up is a sign of life.
                    "answers": self._pool.answers if self._pool else 0,
                    "rested": rested,
                }
            )


def expected_samples(settings: Any, scenario: Scenario) -> int:
    """How many samples LoadGen will probably issue in performance mode, for the progress bar."""
    seconds = settings.min_duration_ms / 1e3
    if scenario.name == "Offline":
        return max(settings.min_query_count, int(1.1 * seconds * settings.offline_expected_qps))
    rates = {
        "Server": settings.server_target_qps,
        "SingleStream": 1e9 / max(1, settings.single_stream_expected_latency_ns),
        "MultiStream": 1e9 / max(1, settings.multi_stream_expected_latency_ns),
    }
    queries = max(settings.min_query_count, int(seconds * rates[scenario.name]))
    return queries * getattr(scenario, "samples_per_query", 1)


def stall_limit_s(scenario: Scenario, settings: Any, query_s: float) -> float:
    """`stall_s`, but never less than a few batches on a slow machine, nor than Server's pauses.

    Poisson arrivals leave a pause of 20 mean intervals once in e^20 queries. query_s: seconds of
    one query at the warm-up.
    """
    pause_s = 20 / settings.server_target_qps if scenario.name == "Server" else 0.0
    return max(scenario.stall_s, 5 * query_s, pause_s)
