"""The HTTP side: OpenAI's images endpoint, health, metrics; every refusal in OpenAI's form."""

from __future__ import annotations

import asyncio
import base64
import hmac
import io
import json
import time
from collections.abc import Collection, Sequence
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sdxl import __version__
from sdxl.core import terminal
from sdxl.core.errors import SdxlError, one_line
from sdxl.core.types import Order
from sdxl.run.serve import ask, hosts
from sdxl.run.serve.engine import Drawn, Engine, Full, Job
from sdxl.run.serve.metrics import Metrics
from sdxl.run.serve.refusals import Refused
from sdxl.run.serve.web import CROWDED

MOST_BYTES = 64 << 10
"""Of a request's body."""
BODY_S = 10.0
"""A client may take to send it."""
_LEFT = 499
"""Status of a request whose client left, in the metrics alone."""


class Service:
    """One engine behind HTTP; `app` is the ASGI application.

    token: that clients must send; names: that they may ask for (`hosts`), None: any.
    """

    def __init__(
        self, engine: Engine, metrics: Metrics, token: str | None = None,
        names: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        self.engine, self.metrics, self._token, self._names = engine, metrics, token, names
        self.app = app = FastAPI(
            title="sdxl serve", version=__version__, openapi_url=None, docs_url=None, redoc_url=None
        )
        body = {"content": {"application/json": {"schema": ask.Ask.model_json_schema()}}}
        meant, room, admitted = map(Depends, (self._meant, self._room, self._admit))
        whoever: dict[str, Any] = {"response_model": None, "dependencies": [meant]}
        known = {**whoever, "dependencies": [meant, room, admitted]}
        app.post("/v1/images/generations", openapi_extra={"requestBody": body}, **known)(self.draw)
        app.get("/v1/models", **known)(self.models)
        app.get("/v1/setting", **known)(self.served)
        app.get("/metrics", **known)(self.numbers)
        app.get("/openapi.json", include_in_schema=False, **known)(self.described)
        app.get("/health", **whoever)(self.health)
        app.add_exception_handler(Refused, self._refused)
        app.add_exception_handler(HTTPException, self._elsewhere)

    @property
    def setting(self) -> ask.Setting:
        """What is served; how the weights are guided is known once they are loaded."""
        rows = self.engine.facts.get("unet_rows_per_image", 2)
        return ask.Setting(self.engine.config, rows == 2)

    async def draw(self, request: Request) -> Response:
        """The endpoint; whatever goes wrong here is one sentence for the client."""
        began = time.perf_counter()
        try:
            orders = ask.orders_of(ask.read(await _body(request)), self.setting)
            found = await _drawn(request, self._accepted(orders))
            made = await asyncio.to_thread(_payload, orders, found)
        except ClientDisconnect:
            self._count(_LEFT)
            return Response(status_code=_LEFT)
        except Refused:
            raise
        except Exception as error:
            terminal.say(f"a request failed: {type(error).__name__}: {error}")
            said = "the picture could not be drawn"
            if isinstance(error, SdxlError):
                said = one_line(error.problems)
            raise Refused(500, said, code="failed") from None
        self._count(200)
        self.metrics.images.inc(len(found))
        self.metrics.seconds.observe(time.perf_counter() - began)
        return Response(made, media_type="application/json")

    async def models(self) -> dict[str, Any]:
        """The one model that there is, as OpenAI lists them."""
        only = {"id": self.engine.config.model.name, "object": "model", "owned_by": "sdxl"}
        return {"object": "list", "data": [only]}

    async def served(self) -> dict[str, Any]:
        """The setting, and the facts of the backend, for `backend=http`."""
        return {
            "server": "sdxl",
            "version": __version__,
            "batch_size": self.engine.batches.batch_size,
            "setting": self.setting.describe(),
            "facts": self.engine.facts,
        }

    async def described(self) -> dict[str, Any]:
        """OpenAPI's description of all this."""
        return self.app.openapi()

    async def health(self) -> Response:
        """200 once it is warm; 503 before, and while no worker can be brought to life."""
        ready = self.engine.ready
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    async def numbers(self) -> Response:
        """Prometheus' text."""
        return Response(self.metrics.text(self.engine), media_type=CONTENT_TYPE_LATEST)

    def _accepted(self, orders: Sequence[Order]) -> list[Job]:
        """Orders in the queue."""
        engine = self.engine
        if not engine.ready:
            raise Refused(503, "no worker is ready", code="not_ready", retry_s=5)
        if len(orders) > engine.queue:
            raise Refused(400, f"`n`: the queue holds {engine.queue}", param="n", code="too_many")
        try:
            return engine.submit(orders)
        except Full as full:
            said = f"the queue is full: {engine.waiting} pictures wait"
            raise Refused(429, said, code="queue_full", retry_s=full.retry_s) from None

    def _count(self, status: int) -> None:
        self.metrics.requests.labels(status=str(status)).inc()

    async def _meant(self, request: Request) -> None:
        name = request.headers.get("host", "")
        if not hosts.asks(name, self._names):
            said = f"`{name[:80]}` is no name of this server (serve --allow-host NAME)"
            raise Refused(421, said, code="unknown_host", headers={"Connection": "close"})

    async def _room(self, request: Request) -> None:
        if request.scope.get("state", {}).get(CROWDED):
            raise Refused(
                503, "there are too many connections", code="too_many_connections", retry_s=1,
                headers={"Connection": "close"},
            )  # fmt: skip

    async def _admit(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if self._token and not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            raise Refused(
                401, "the bearer token is missing, or another one", code="invalid_api_key"
            )

    async def _refused(self, _: Request, error: Any) -> Response:
        self._count(error.status)
        return error.response()

    async def _elsewhere(self, request: Request, error: Any) -> Response:
        """A path or a method that is not there."""
        said = f"there is no {request.method[:20]} {request.url.path[:80]} here"
        found = Refused(error.status_code, said, code="unknown_url", headers=error.headers)
        return await self._refused(request, found)


async def _body(request: Request) -> bytes:
    """The body, of limited length, in limited time, of the one type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which no page of another site can send unasked
        raise Refused(415, "the body must be JSON: Content-Type: application/json")
    long = Refused(413, f"the body is longer than {MOST_BYTES} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > MOST_BYTES:
        raise long
    found = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                found += part
                if len(found) > MOST_BYTES:
                    raise long
    except TimeoutError:
        raise Refused(408, f"the body took longer than {BODY_S:g} s") from None
    return bytes(found)


async def _drawn(request: Request, jobs: Sequence[Job]) -> list[Drawn]:
    """The pictures; where the client leaves before, those that no worker has are taken back."""
    futures = [asyncio.wrap_future(job.done) for job in jobs]
    whole = asyncio.gather(*futures, return_exceptions=True)
    gone = asyncio.ensure_future(_gone(request))
    either: set[Any] = {whole, gone}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if not whole.done():
        whole.cancel()
        raise ClientDisconnect
    found = []
    for each in await whole:
        if isinstance(each, BaseException):
            raise each
        found.append(each)
    return found


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _payload(orders: Sequence[Order], found: Sequence[Drawn]) -> bytes:
    """OpenAI's answer: PNG files in base64; beside them seeds, and a warning of a long prompt."""
    pictures = [
        {"b64_json": _png(each.picture), "seed": order.seed}
        for order, each in zip(orders, found, strict=True)
    ]
    cut = {"warnings": ["the prompt is longer than 77 tokens; the rest of it was not read"]}
    warned = cut if any(each.cut for each in found) else {}
    return json.dumps({"created": int(time.time()), "data": pictures, **warned}).encode()


def _png(picture: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()
