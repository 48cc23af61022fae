"""Settings of `backend=http`, and which of them no request carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Optional
from urllib.parse import urlsplit

from sdxl.config import schema
from sdxl.config.derive import effective
from sdxl.config.ranges import SECONDS, Range
from sdxl.config.usual import changed
from sdxl.config.words import typed
from sdxl.core import secrets
from sdxl.core.errors import Problem

CONCURRENCY = 16
"""Requests under way: twice a batch of 8, so that the next one waits while one is drawn."""
NOT_SERVED = ("device", "diffusers_src")
"""Settings of a model that say where it runs, or on what, not what it draws."""


class Dialect(str, Enum):
    """What a server understands."""

    sdxl = "sdxl"  # `python -m sdxl serve`: prompt, seed and noise, and its settings are compared
    openai = "openai"  # OpenAI's own fields alone


@dataclass
class Config(schema.Backend):
    """Requests of one picture each; how they become batches is the server's affair."""

    batch_size: Optional[int] = 1  # pictures of a request
    url: str = "http://127.0.0.1:8000"  # the server, without /v1/images/generations
    dialect: Dialect = Dialect.sdxl  # what it understands
    served_model: Optional[str] = None  # the request's `model`; null: none is sent
    concurrency: Optional[int] = None  # requests under way; null: 16, in SingleStream 1
    timeout_s: float = 600.0  # longest a picture may take, the waits of a full queue included

    RANGES: ClassVar[dict[str, Range]] = {
        "concurrency": Range(1, 4096),
        "timeout_s": SECONDS,
    }


def problems_of(config: schema.Config) -> Iterator[Problem]:
    """Settings that no request carries."""
    backend = config.backend
    assert isinstance(backend, Config)
    if not _is_address(backend.url):
        yield Problem("`backend.url` is no address of a server", backend.url, "http://HOST:PORT")
    elif "@" in backend.url or secrets.restored(backend.url) != backend.url:
        yield Problem(
            "the login in `backend.url` would be ignored", secrets.hide(backend.url),
            "a bearer token", f"export {secrets.SERVE_TOKEN}=...",
        )  # fmt: skip
    if backend.batch_size != 1:
        yield _ignored("backend.batch_size", backend.batch_size, 1, "the server makes the batches")
    if backend.devices is not None:
        yield _ignored("backend.devices", backend.devices, None, "the server has the devices")
    single = isinstance(config.scenario, schema.SingleStream)
    if single and backend.concurrency not in (None, 1):
        yield _ignored("backend.concurrency", backend.concurrency, 1, "SingleStream asks for one")
    if config.rules is schema.Rules.closed:
        yield Problem(
            "nobody sees from outside whether a server keeps the closed division's rules",
            "rules=closed", "rules=open", "rules=open",
        )  # fmt: skip
    if config.foreign is schema.Foreign.error:
        yield Problem(
            "the server's work on this machine cannot be told from other people's",
            "foreign=error", "foreign=warn", "foreign=warn",
        )  # fmt: skip
    if config.quant.format is not schema.Format.none and config.quality.baseline:
        yield Problem(
            "the unquantized baseline would be measured on the same server",
            f"quant={config.quant.name} quality.baseline=true", "quality.baseline=false",
            "quality.baseline=false",
        )  # fmt: skip
    yield from _unsaid(config, backend.dialect)


def _is_address(url: str) -> bool:
    try:
        place = urlsplit(url)
        found = place.hostname and place.port != 0
    except ValueError:  # half of an IPv6 address, a port that is no number
        return False
    return bool(found) and place.scheme in ("http", "https") and not place.query + place.fragment


def _unsaid(config: schema.Config, dialect: Dialect) -> Iterator[Problem]:
    """Settings that the dialect has no words for."""
    ours = dialect is Dialect.sdxl
    for name, usual in changed("model", config.model).items():
        if name in NOT_SERVED if ours else name not in ("height", "width"):
            value = getattr(config.model, name)
            yield _ignored(f"model.{name}", value, usual, "no request carries it")
    if ours:
        return
    fp32 = schema.DType.fp32
    usuals = {
        "precision": (config.precision, schema.Precision(fp32, fp32, fp32)),
        "scheduler": (config.scheduler, schema.Spaced("auto")),
        "shortcut": (config.shortcut, schema.Shortcut("none")),
        "quant": (effective(config), {"format": "none"}),
    }
    for group, (asked, usual) in usuals.items():
        if asked != usual:
            yield Problem(
                f"`{group}` would be ignored: no request carries it", f"{group}=...",
                "what `python run.py` has without it", "backend.dialect=sdxl",
            )  # fmt: skip


def _ignored(key: str, value: Any, usual: Any, why: str) -> Problem:
    return Problem(
        f"`{key}` would be ignored: {why}", typed(key, value), "its usual value", typed(key, usual)
    )
