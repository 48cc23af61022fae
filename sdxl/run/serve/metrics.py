"""Counters of a server in Prometheus' form; each server has a registry of its own."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sdxl.run.serve.engine import Engine

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


class Metrics:
    """What happened, and how full the queue is now."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry}
        self.requests = Counter("sdxl_requests", "requests by status", ["status"], **own)
        self.images = Counter("sdxl_images", "pictures that were drawn and sent", **own)
        self.seconds = Histogram("sdxl_request_seconds", "from body to picture",
                                 buckets=SECONDS, **own)  # fmt: skip
        self.batch_size = Histogram("sdxl_batch_size", "pictures of a batch",
                                    buckets=(1, 2, 4, 8, 16, 32, 64), **own)  # fmt: skip
        self.batch_seconds = Histogram("sdxl_batch_seconds", "a batch on its worker",
                                       buckets=SECONDS, **own)  # fmt: skip
        self._waiting = Gauge("sdxl_queue_images", "pictures that wait", **own)
        self._room = Gauge("sdxl_queue_limit", "pictures that may wait", **own)
        self._workers = Gauge("sdxl_workers", "worker processes", **own)
        self._deaths = Gauge("sdxl_worker_deaths", "workers that died and were replaced", **own)
        self._ready = Gauge("sdxl_ready", "1: warm and able to draw", **own)

    def batch(self, size: int, seconds: float) -> None:
        """A batch was drawn."""
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)

    def text(self, engine: Engine) -> bytes:
        """All of them as they are now."""
        self._waiting.set(engine.waiting)
        self._room.set(engine.queue)
        self._workers.set(len(engine.pids))
        self._deaths.set(engine.deaths)
        self._ready.set(engine.ready)
        return generate_latest(self.registry)

    def total(self, name: str, **labels: str) -> int:
        """A counter's value."""
        return int(self.registry.get_sample_value(f"{name}_total", labels) or 0)

    def by_status(self) -> dict[str, int]:
        """Requests by status."""
        return {
            sample.labels["status"]: int(sample.value)
            for family in self.requests.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        }
