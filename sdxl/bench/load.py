"""Load on a generator, point by point: requests in flight, rates, a trace; latency and goodput.

LoadGen knows neither a ladder of rates nor requests in flight, and takes a process for each test.
The batches are those of its Server scenario (`sdxl.bench.batching`); the clock is ours.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from sdxl.bench.arrivals import poisson
from sdxl.bench.batching import Batching
from sdxl.bench.sut import Counts, Generate, Sut
from sdxl.core.types import Sample

SHARES = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.2, 1.5)
"""Rates of the ladder, as shares of the most that requests in flight have reached."""
PAYS = 1.03
"""Twice the requests in flight must give this much more, or the ladder ends."""
BEHIND = 0.05
"""A point is saturated if more than this share of its requests, and two full batches of every
lane, wait when the last one arrives."""
GIVEN_UP = 16
"""Full batches of every lane that may wait before a point is broken off: it will not follow."""
RATE, IN_FLIGHT, TRACE = "rate", "in flight", "trace"


@dataclass(frozen=True)
class Point:
    """One point: what was asked, what came of it. Latencies in ms, from arrival to answer."""

    kind: str
    asked: float  # requests/s, or requests in flight
    offered: float  # requests/s that arrived
    completed: float  # requests/s that were answered
    goodput: float  # of them within the limit
    p50: float
    p90: float
    p99: float
    at_percentile: float  # of the latency limit's own percentile
    requests: int
    seconds: float
    saturated: bool


@dataclass(frozen=True)
class Load:
    """How much, and what is counted as good."""

    duration_s: float
    least: int  # requests of a point
    limit_ms: float
    percentile: float
    seed: int


@dataclass
class System:
    """What is loaded: lanes that draw, their batches, prompts to draw from."""

    lanes: Sequence[Generate]
    batching: Batching
    prompts: int
    complete: Callable[[list[Sample], Any], None]
    on_error: Callable[[BaseException], None]
    watch: Callable[[Sut], Callable[[], None]] = lambda _: lambda: None
    counts: Counts = field(default_factory=Counts)
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    kinds: Sequence[float] = ()  # weights of the kinds of requests, if there are several

    @property
    def full(self) -> int:
        """Pictures that all lanes draw at once."""
        return self.batching.batch_size * len(self.lanes)


class Run:
    """One point under way: requests that are issued, answered, counted."""

    def __init__(self, system: System, load: Load) -> None:
        self.system, self.load = system, load
        self.ended: list[tuple[float, float]] = []  # (when, latency) of each answer, s
        self._issued: dict[int, float] = {}
        self._answered = threading.Condition()
        draw = np.random.default_rng(load.seed)
        self._order = draw.permutation(system.prompts)
        weights = np.array(system.kinds or [1.0])
        self._kinds = draw.choice(len(weights), 4096, p=weights / weights.sum())
        self.sut = Sut(system.lanes[0], self._complete, system.on_error, system.batching)

    def rate(self, arrivals: Sequence[float]) -> bool:
        """Issue at these seconds; ends early, and says so, where the system does not follow."""
        most = GIVEN_UP * self.system.full
        began = time.perf_counter()
        for number, due in enumerate(arrivals):
            self._sleep(began + due)
            if number - len(self.ended) > most:
                return True
            self.issue(number)
        behind = len(self._issued)
        return behind > max(2 * self.system.full, BEHIND * len(arrivals))

    def in_flight(self, count: int) -> None:
        """Keep so many requests in flight for the load's time."""
        began = time.perf_counter()
        number = 0
        while not self._enough(began, number):
            with self._answered:
                while len(self._issued) >= count:
                    self._answered.wait()
                room = count - len(self._issued)
            for _ in range(room):
                self.issue(number)
                number += 1

    def issue(self, number: int) -> None:
        """One request arrives."""
        with self._answered:
            self._issued[number] = time.perf_counter()
        kind = int(self._kinds[number % len(self._kinds)])
        index = int(self._order[number % len(self._order)]) + kind * self.system.prompts
        self.sut.issue([Sample(number, index)])

    def _enough(self, began: float, number: int) -> bool:
        passed = time.perf_counter() - began >= self.load.duration_s
        return passed and number >= self.load.least

    def _sleep(self, due: float) -> None:
        left = due - time.perf_counter()
        if left > 0:
            threading.Event().wait(left)

    def _complete(self, batch: list[Sample], images: Any) -> None:
        now = time.perf_counter()
        with self._answered:
            self.ended += [(now, now - self._issued.pop(sample.id)) for sample in batch]
            self._answered.notify_all()
        self.system.complete(batch, images)


def point(system: System, load: Load, kind: str, asked: float, drive: Drive) -> Point:
    """Load the system once; the model stays in the calling thread, the clients have their own."""
    run = Run(system, load)
    stop = system.watch(run.sut)
    saturated: list[bool] = []

    def clients() -> None:
        try:
            saturated.append(bool(drive(run)))
        except BaseException as error:
            system.on_error(error)
        finally:
            run.sut.close()

    threads = [threading.Thread(target=clients, name="clients", daemon=True)]
    threads += [
        threading.Thread(target=run.sut.serve, args=(lane,), daemon=True)
        for lane in system.lanes[1:]
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    run.sut.serve(system.lanes[0])
    for thread in threads:
        thread.join()
    stop()
    _count(system, run)
    return _figures(run, began, kind, asked, any(saturated))


Drive = Callable[[Run], bool | None]


def _count(system: System, run: Run) -> None:
    for name, value in vars(run.sut.counts).items():
        setattr(system.counts, name, getattr(system.counts, name) + value)
    system.latencies_s.extend(latency for _, latency in run.ended)


def _figures(run: Run, began: float, kind: str, asked: float, saturated: bool) -> Point:
    load = run.load
    latencies = np.array([latency for _, latency in run.ended]) * 1e3
    times = np.array([when for when, _ in run.ended])
    count, seconds = len(latencies), float(times.max() - began)
    # From the first answers to the last: what came before them was the pipeline filling up.
    after = int((times > times.min()).sum())
    span = float(times.max() - times.min())
    completed = after / span if after else count / seconds
    if kind != IN_FLIGHT:  # of few requests the span alone would say more than arrived
        completed = min(completed, asked)
    good = float((latencies <= load.limit_ms).mean())
    p50, p90, p99, own = np.percentile(latencies, [50, 90, 99, 100 * load.percentile])
    offered = completed if kind == IN_FLIGHT else asked
    return Point(
        kind,
        asked,
        offered,
        completed,
        good * completed,
        float(p50),
        float(p90),
        float(p99),
        float(own),
        count,
        seconds,
        saturated,
    )


def ladder(
    system: System,
    load: Load,
    rates: Sequence[float] | None,
    flights: Sequence[int] | None,
    trace: Sequence[float] | None,
) -> Iterator[Point]:
    """Points as they are measured: in flight first, then rates up to the first that saturates."""
    most, last = 0.0, 0.0
    for count in flights if flights is not None else _doubling(system):
        found = point(system, load, IN_FLIGHT, count, partial(Run.in_flight, count=count))
        yield found
        most = max(most, found.completed)
        if flights is None and count > system.full and found.completed < PAYS * last:
            break
        last = found.completed
    if rates is None and not most:  # nobody asked for requests in flight: find out what it can do
        count = 2 * system.full
        most = point(system, load, IN_FLIGHT, count, partial(Run.in_flight, count=count)).completed
    for rate in sorted(rates) if rates is not None else [share * most for share in SHARES]:
        found = point(
            system,
            load,
            RATE,
            rate,
            partial(Run.rate, arrivals=poisson(rate, load.duration_s, load.least, load.seed)),
        )
        yield found
        if found.saturated:
            break
    if trace:
        mean = (len(trace) - 1) / max(trace[-1] - trace[0], 1e-9)
        yield point(system, load, TRACE, mean, partial(Run.rate, arrivals=trace))


def _doubling(system: System) -> Iterator[int]:
    count = 1
    while count <= 8 * system.full:
        yield count
        count *= 2


def summary(points: Sequence[Point], load: Load) -> dict[str, Any]:
    """For the record: the points, the knee, and the best within the limit.

    knee: the most that was answered, requests/s; past it latency grows as long as the load lasts.
    """
    knee = max((each.completed for each in points), default=None)
    kept = [each for each in points if not each.saturated and each.at_percentile <= load.limit_ms]
    kept = [each for each in kept if each.kind == RATE] or kept  # arrivals wait for nobody
    best = max(kept, key=lambda each: each.completed, default=None)
    saturated = next((each.offered for each in points if each.saturated), None)
    return {
        "points": [asdict(each) for each in points],
        "knee": knee,
        "saturated_at": saturated,
        "limit_ms": load.limit_ms,
        "percentile": load.percentile,
        "within_limit": best and best.completed,
    }
