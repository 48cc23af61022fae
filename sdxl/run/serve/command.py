"""OpenAI's images endpoint on a measured setting.   python -m sdxl serve best --port 8000

Prompts that arrive together are drawn together, by the batching of LoadGen's Server scenario.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import functools
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.config import schema
from sdxl.config.derive import batch_size
from sdxl.config.ranges import BATCH, LATENCY_MS
from sdxl.core import ends, gpu_locks, isolate, terminal
from sdxl.core.command import Parser, ended
from sdxl.core.errors import ConfigError, SdxlError, UserError
from sdxl.core.paths import ROOT
from sdxl.core.progress import Progress
from sdxl.core.secrets import SERVE_TOKEN, serve_token
from sdxl.run import artifacts, jobs, setting
from sdxl.run.doctor.preflight import INSTALL, installed, preflight
from sdxl.run.serve import hosts

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; prints one JSON object at the end and returns the exit code."""
    return ended(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> dict[str, Any]:
    given = _parser().parse_intermixed_args(argv)
    if given.replicas and not given.ray:
        raise UserError("`--replicas` would be ignored: they are Ray's", fix="--ray --replicas 2")
    if given.devices and given.ray:
        raise UserError("`--devices` would be ignored: Ray gives each replica its GPU", fix="--ray")
    token = serve_token()
    _guarded(given.host, token)
    if given.allow_host and not hosts.loopback(given.host):
        raise UserError(
            "`--allow-host` would be ignored: with a token any name may be asked for",
            f"--host {given.host}", fix="--host 127.0.0.1",
        )  # fmt: skip
    config = configure(given)
    needs((*PACKAGES, "ray") if given.ray else PACKAGES, "ray" if given.ray else "serve")
    folder = ROOT / "multirun" / time.strftime("%Y-%m-%d/serve-%H-%M-%S")
    if problems := preflight(config):
        raise ConfigError(problems)
    if given.ray:
        from sdxl.run.serve import cluster, web

        with web.listen(
            given.host, given.port
        ) as sock:  # a free port, said before anything is built
            port = sock.getsockname()[1]
        names = hosts.names(given.host, given.allow_host)
        asked = cluster.Replicas(given.replicas or 1, given.host, port, given.queue, token, names)
        return cluster.run(config, asked, functools.partial(build, config, folder))
    return _serve(config, given, token, folder)


def _serve(
    config: schema.Config, given: argparse.Namespace, token: str | None, folder: Path
) -> dict[str, Any]:
    """Serve until a signal comes; the facts of the JSON line."""
    from sdxl.run.serve import web
    from sdxl.run.serve.app import Service
    from sdxl.run.serve.engine import Engine
    from sdxl.run.serve.metrics import Metrics

    with (
        web.listen(given.host, given.port) as sock,
        gpu_locks.reserve(terminal.say, config.backend.devices) as env,
    ):
        os.environ |= env
        metrics = Metrics()
        engine = Engine(config, build(config, folder), given.queue, metrics.batch)
        service = Service(engine, metrics, token, hosts.names(given.host, given.allow_host))
        server = web.server_of(service.app, web.most_connections(given.queue))
        address, began = web.address_of(sock), time.monotonic()
        loading = Loading(engine, server)
        title = f"{config.model.name} {config.backend.name}"
        terminal.say(f"serve: loading {title}; {address} answers, /health says when it is ready")
        loading.start()
        asyncio.run(server.serve(sockets=[sock]))
        loading.end(server.force_exit)
    statuses = metrics.by_status()
    return {
        "address": address,
        "seconds": round(time.monotonic() - began, 3),
        "images": metrics.total("sdxl_images"),
        "requests": statuses,
        "deaths": engine.deaths,
    }


class Loading:
    """Opens the engine beside the server, which answers from the beginning."""

    def __init__(self, engine: Any, server: Any) -> None:
        self._engine, self._server = engine, server
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._open, name="loading")

    def start(self) -> None:
        """Begin to load."""
        isolate.prepare()
        self._thread.start()

    def end(self, at_once: bool) -> None:
        """Finish what was accepted, or not; raises what went wrong with loading."""
        ends.again()
        if at_once:
            self._engine.abandon()
        while self._thread.is_alive():  # workers that load are not waited for
            self._engine.abandon()
            for action in isolate.before_leaving:
                action()
            self._thread.join(0.2)
        self._engine.close()
        if self._failure:
            raise self._failure
        if at_once:
            raise SdxlError("interrupted: a second signal came before all was finished")

    def _open(self) -> None:
        try:
            self._engine.open()
            if self._engine.ready:
                terminal.say("serve: ready")
        except Exception as error:
            if not self._server.should_exit:
                self._failure = error
            self._server.should_exit = True


def configure(given: argparse.Namespace) -> schema.Config:
    """The setting of the record and the words, as a server draws it."""
    records = [word for word in given.words if "=" not in word]
    words = [word for word in given.words if "=" in word]
    if len(records) > 1:
        raise UserError("one record can be served", " ".join(records), "RECORD|last|best")
    if typed := [word for word in words if setting.about_measuring(word)]:
        raise UserError(
            f"`{typed[0]}` would be ignored: nothing is measured", typed[0],
            "settings of what draws: model, precision, quant, backend, ...",
        )  # fmt: skip
    for option, value, key in (
        ("--batch", given.batch, "backend.batch_size"),
        ("--devices", given.devices, "backend.devices"),
    ):
        twice = [word for word in words if word.lstrip("+").startswith(f"{key}=")]
        if value and twice:
            raise UserError(f"`{option}` and `{key}` say the same", twice[0], f"`{option}` alone")
    config = setting.compose(records[0] if records else None, words)
    if config.backend.name == "http":
        raise UserError("a server is not served again", "backend=http", "a backend that draws")
    if given.ray and config.backend.devices:
        raise UserError(
            "`backend.devices` would be ignored: Ray gives each replica its GPU",
            f"backend.devices={config.backend.devices}", fix="backend.devices=null",
        )  # fmt: skip
    scenario = schema.Server("Server", min_duration_ms=0, max_wait_ms=given.max_wait_ms)
    found = dataclasses.replace(config, scenario=scenario, rules=schema.Rules.open)
    devices = given.devices or config.backend.devices
    backend = dataclasses.replace(
        config.backend, batch_size=given.batch or batch_size(found), devices=devices
    )
    return dataclasses.replace(found, backend=backend)


def build(config: schema.Config, folder: Path) -> dict[str, Path]:
    """What the backend loads, made now where it is missing."""
    with Progress(f"serve {config.model.name}") as progress:

        def child(work: Any, *args: Any) -> Any:
            folder.mkdir(parents=True, exist_ok=True)  # only where something is made
            return jobs.child(config, folder, progress.report, {}, work, *args)

        return artifacts.build(config, child).loads


def needs(packages: Sequence[str], extra: str) -> None:
    """Raise `UserError` with the line that installs what is missing."""
    missing = [name for name in packages if not installed(name)]
    if missing:
        raise UserError(
            f"`serve` needs packages that are not installed: {', '.join(missing)}",
            fix=f"{INSTALL[:-1]}'.[{extra}]'",
        )


def _guarded(host: str, token: str | None) -> None:
    """Nobody is let in from outside without a token."""
    if not hosts.loopback(host) and not token:
        raise UserError(
            "other machines could draw without a token", f"--host {host}",
            "127.0.0.1, or a bearer token that clients send", f"export {SERVE_TOKEN}=...",
        )  # fmt: skip


def _parser() -> Parser:
    parser = Parser(prog="python -m sdxl serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "words", nargs="*", metavar="RECORD|last|best|key=value",
        help="whose setting draws, and settings as for run.py: model=..., quant=...",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="a name beside this machine's own that requests may ask for (*: any)",
    )  # fmt: skip
    parser.add_argument("--port", type=_within(0, 65535), default=8000, help="0: any free one")
    parser.add_argument("--devices", type=_devices, metavar="0,1", help="a worker for each")
    parser.add_argument("--queue", type=_within(1, 100_000), default=64, help="pictures that wait")
    parser.add_argument(
        "--batch", type=_within(1, int(BATCH.most)), help="pictures drawn together, at most"
    )
    parser.add_argument("--ray", action="store_true", help="replicas by Ray Serve")
    parser.add_argument("--replicas", type=_within(1, 10_000), help="of --ray (default 1)")
    parser.add_argument(
        "--max-wait-ms",
        type=_milliseconds,
        default=schema.Server().max_wait_ms,
        help="for a batch to fill (default 50)",
    )
    return parser


def _within(least: int, most: int) -> Any:
    def read(text: str) -> int:
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return int(text)

    read.__name__ = "number"
    return read


def _milliseconds(text: str) -> float:
    if not LATENCY_MS.holds(float(text)):
        raise argparse.ArgumentTypeError(f"{text} is not {LATENCY_MS}")
    return float(text)


def _devices(text: str) -> list[int]:
    found = [int(each) for each in text.split(",")]
    if min(found) < 0 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text} does not name each device once, from 0")
    return found


_milliseconds.__name__, _devices.__name__ = "number", "list of devices"  # in argparse's messages
