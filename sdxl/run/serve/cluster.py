"""Replicas by Ray Serve: the same application around an engine of its own in each.

Ray starts replicas, on this machine or on those of its cluster, gives each its GPU, spreads
requests over them and replaces those that do not live: nothing of that is ours.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve

from sdxl.config import schema
from sdxl.core import ends, gpu, isolate, terminal
from sdxl.core.errors import SdxlError, UserError
from sdxl.run.serve import web
from sdxl.run.serve.app import Service
from sdxl.run.serve.engine import Engine
from sdxl.run.serve.metrics import Metrics

APPLICATION = "sdxl"
_ENVIRONMENT = ("PYTHONPATH", "SDXL_STORE", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
_OBJECTS_BYTES = 100 << 20  # pictures do not go through Ray's store
_FINISH_S = 3600.0
"""A replica that is to end may take to draw what it accepted."""


@dataclass(frozen=True)
class Replicas:
    """How many, where they listen, what each may hold, who may ask, and for which names."""

    count: int
    host: str
    port: int
    queue: int
    token: str | None
    names: frozenset[str] | None


def _application() -> Any:
    """The application of the replica that this process is; asked for once it is open."""
    assert Replica.service
    return Replica.service.app


@serve.ingress(_application)
class Replica:
    """One engine; Ray counts it as there once it is warm."""

    service: Service | None = None

    def __init__(
        self, config: schema.Config, loads: dict[str, Path], queue: int, token: str | None,
        names: frozenset[str] | None,
    ) -> None:  # fmt: skip
        isolate.prepare()
        metrics = Metrics()
        self._engine = Engine(config, loads, queue, metrics.batch)
        self._engine.open()
        Replica.service = Service(self._engine, metrics, token, names)

    def check_health(self) -> None:
        """Asked by Ray, which replaces a replica that raises."""
        if not self._engine.ready:
            raise RuntimeError("no worker lives")

    def __del__(self) -> None:
        if engine := getattr(self, "_engine", None):
            engine.abandon()


def run(
    config: schema.Config, asked: Replicas, build: Callable[[], dict[str, Path]]
) -> dict[str, Any]:
    """Serve until a signal comes; the facts of the JSON line."""
    isolate.prepare()
    loads, began = build(), time.monotonic()
    told = threading.Event()

    def tell(*_: Any) -> None:
        told.set()
        ends.again()

    _start(asked)
    for each in ends.SIGNALS:
        signal.signal(each, tell)
    try:
        terminal.say(f"serve: loading {asked.count} replicas of {config.model.name}")
        serve.run(_deployment(config, loads, asked), name=APPLICATION)
        address = web.address(asked.host, asked.port)
        terminal.say(f"serve: ready; {address} answers")
        while not told.wait(1.0):
            _alive()
        _finish()
    finally:
        serve.shutdown()
        ray.shutdown()
    seconds = round(time.monotonic() - began, 3)
    return {"address": address, "seconds": seconds, "replicas": asked.count}


def _start(asked: Replicas) -> None:
    """A cluster: that of RAY_ADDRESS, or one of this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports home otherwise
    known = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    here = {} if os.environ.get("RAY_ADDRESS") else {
        "include_dashboard": False, "object_store_memory": _OBJECTS_BYTES,
        "_node_ip_address": "127.0.0.1",
    }  # fmt: skip
    ray.init(
        logging_level="ERROR", log_to_driver=False, runtime_env={"env_vars": known},
        **here,
    )  # fmt: skip
    logging.getLogger("ray").setLevel(logging.ERROR)
    if serve.status().proxies:  # whose address stays, and which our end would end, too
        raise UserError(
            "Ray Serve runs in this cluster already", os.environ.get("RAY_ADDRESS"),
            "a cluster whose Ray Serve is ours alone", "serve shutdown   # or another RAY_ADDRESS",
        )  # fmt: skip
    serve.start(http_options={"host": asked.host, "port": asked.port})


def _deployment(config: schema.Config, loads: dict[str, Path], asked: Replicas) -> Any:
    """The replicas as Ray wants them described."""
    made = serve.deployment(Replica).options(
        num_replicas=asked.count,
        # Our queue says 429 with Retry-After; Ray's own limit would hold requests back before it.
        max_ongoing_requests=4 * asked.queue + 1000,
        graceful_shutdown_timeout_s=_FINISH_S,
        ray_actor_options={
            "num_gpus": 1 if gpu.names() else 0,
            "num_cpus": 0 if gpu.names() else 0.1,
        },
    )
    return made.bind(config, loads, asked.queue, asked.token, asked.names)


def _finish() -> None:
    """Delete the application; each replica draws what it accepted, however long that takes."""
    serve.delete(APPLICATION, _blocking=False)  # it would give up after a minute
    end = time.monotonic() + _FINISH_S
    while APPLICATION in serve.status().applications and time.monotonic() < end:
        time.sleep(0.2)


def _alive() -> None:
    """Raise if the application is no more."""
    found = serve.status().applications.get(APPLICATION)
    if found is None or found.status == "DEPLOY_FAILED":
        said = found.message if found else "it is gone"
        raise SdxlError("Ray Serve could not keep the replicas", said.strip().rpartition("\n")[2])
