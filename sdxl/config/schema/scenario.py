"""Settings of the four LoadGen scenarios; names are LoadGen's own where it has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from omegaconf import MISSING


@dataclass
class Scenario:
    """LoadGen's settings; names are LoadGen's own where it has one."""

    name: str = MISSING  # the option of `scenario=`
    min_duration_ms: int = MISSING  # shortest measurement
    min_query_count: Optional[int] = None  # null: every prompt once
    performance_sample_count: Optional[int] = None  # null: all prompts
    warmup_batches: int = 2  # batches drawn before the measurement
    startup_s: float = 1800.0  # longest silence while loading and warming up
    stall_s: float = 120.0  # longest silence while measuring


@dataclass
class Offline(Scenario):
    """All samples at once; the figure is samples per second."""

    target_qps: Optional[float] = None  # samples/s LoadGen plans for; null: from the warm-up


@dataclass
class Server(Scenario):
    """Poisson arrivals; the figure is the rate that keeps the latency limit."""

    target_qps: Optional[float] = None  # null: a share of the warm-up's rate
    warmup_qps_share: float = 0.6  # that share
    target_latency_ms: float = 20000.0  # the latency limit
    target_latency_percentile: float = 0.99  # of the queries that must keep it
    max_wait_ms: float = 50.0  # longest a query waits for its batch to fill


@dataclass
class SingleStream(Scenario):
    """One query at a time; the figure is a latency percentile."""

    target_latency_ms: Optional[float] = None  # expectation LoadGen plans for; null: warm-up
    target_latency_percentile: float = 0.9  # which latency is the figure


@dataclass
class MultiStream(Scenario):
    """One query of several samples at a time; the figure is a latency percentile."""

    samples_per_query: int = 8  # prompts of one query
    target_latency_ms: Optional[float] = None  # expectation LoadGen plans for; null: warm-up
    target_latency_percentile: float = 0.99  # which latency is the figure


@dataclass
class LoadCurve(Scenario):
    """Latency by rate and by requests in flight, until the system cannot follow; not MLPerf's.

    `min_duration_ms` and `min_query_count` are those of each point.
    """

    rates: Optional[list[float]] = None  # requests/s; null: shares of what it can do; []: none
    concurrencies: Optional[list[int]] = None  # requests in flight; null: doubled while it pays
    trace: Optional[str] = None  # arrivals to replay: seconds from the start, one a line
    target_latency_ms: float = 20000.0  # goodput counts the requests answered within it
    target_latency_percentile: float = 0.99  # of the requests that must keep it
    max_wait_ms: float = 50.0  # longest a request waits for its batch to fill
    mix: Optional[list[str]] = None  # WIDTHxHEIGHT@STEPS or ...:WEIGHT, drawn at random; null: one
