"""The client of `backend=http`: pictures over HTTP, for as many threads as ask at the same time."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import urllib3
from PIL import Image

from sdxl.backends.http.config import CONCURRENCY, NOT_SERVED, Config, Dialect
from sdxl.config import schema
from sdxl.config.derive import drawn_with
from sdxl.config.words import typed
from sdxl.core.errors import ConfigError, Problem, SdxlError, UserError
from sdxl.core.secrets import SERVE_TOKEN, serve_token
from sdxl.core.types import Order, Prompt

_BUSY = (429, 503)
_CONNECT_S = 10.0


class Client:
    """A `Generator` whose pictures come over HTTP; `lanes` may ask at the same time."""

    def __init__(self, config: schema.Config, backend: Config) -> None:
        self.config, self.backend = config, backend
        single = isinstance(config.scenario, schema.SingleStream)
        count = self.backend.concurrency or (1 if single else CONCURRENCY)
        self.lanes = [self] * count
        token = serve_token()
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {"Authorization": f"Bearer {token}"} if token else {}
        self._pool = urllib3.PoolManager(maxsize=count, retries=False)
        self._orders: list[Order] = []
        self._counting = threading.Lock()
        self.waits = 0  # answers of a full queue, after which it was asked again
        self._long: set[str] = set()  # prompts of which the server read a part
        self.served: dict[str, Any] = {}
        self.cut: list[int] = []

    def ask(self, prompts: Sequence[Prompt]) -> None:
        """What positions mean: a prompt from the noise of its row, as a measurement here has it."""
        shared = self.config.model.noise is schema.Noise.shared
        self._orders = [
            Order(each.text, self.config.seed + each.row, shared=shared) for each in prompts
        ]

    def compare(self) -> None:
        """Make sure that the server is ours and has these settings; notes what it says.

        Waits for one that still loads: what it draws with is known afterwards.
        """
        url = f"{self.backend.url.rstrip('/')}/v1/setting"
        end = time.monotonic() + self.backend.timeout_s
        while True:
            code, content = self._request("GET", url)
            found = _object(content)
            if found.get("facts") != {} or time.monotonic() > end:
                break
            time.sleep(0.5)
        if code == 401:
            raise UserError("the server asks for a token", url, fix=f"export {SERVE_TOKEN}=...")
        if code != 200 or found.get("server") != "sdxl":
            raise UserError(
                "there is another kind of server", f"{code} from {url}",
                "python -m sdxl serve, or OpenAI's fields alone", "backend.dialect=openai",
            )  # fmt: skip
        if problems := [*self._differences(found["setting"], found["facts"])]:
            raise ConfigError(problems)
        self.served = {name: found[name] for name in ("version", "batch_size", "facts")}
        self.served["backend"] = found["setting"]["backend"]

    def generate(self, indices: Sequence[int]) -> Any:
        """uint8 images (B, H, W, 3): a request for each, one after the other."""
        return self.draw([self._orders[index] for index in indices])

    def draw(self, orders: Sequence[Order]) -> Any:
        """The same of orders."""
        return np.stack([self._picture(order) for order in orders])

    def describe(self) -> dict[str, Any]:
        """Facts for the record: the server's own apart."""
        facts = self.served.get("facts", {})
        said: dict[str, Any] = {"simulated": True} if facts.get("simulated") else {}
        about = {"url": self.backend.url, "queue_was_full": self.waits, **self.served}
        if self.backend.dialect is Dialect.sdxl:  # which says so in each answer
            said["prompts_truncated"] = len(self._long)
        return {"backend": "http", "device": "http", "server": about, **said}

    def close(self) -> None:
        """Give the connections back."""
        self._pool.clear()

    def _picture(self, order: Order) -> Any:
        model = self.config.model
        code, content = self._patiently(json.dumps(self._body(order)).encode())
        found = _object(content)
        if code != 200:
            error = found.get("error")
            said = error.get("message") if isinstance(error, dict) else repr(content[:200])
            raise SdxlError("the server drew no picture", f"{code}: {said}", "200 and a picture")
        try:
            file = base64.b64decode(found["data"][0]["b64_json"], validate=True)
            picture = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
            raise SdxlError(
                "the server's answer holds no picture", f"{type(error).__name__}: {error}",
                "data[0].b64_json, a file that Pillow reads",
            ) from error  # fmt: skip
        if picture.shape != (model.height, model.width, 3):
            raise SdxlError(
                "the server draws another size", f"{picture.shape[1]}x{picture.shape[0]}",
                f"{model.width}x{model.height}", f"size={picture.shape[1]}x{picture.shape[0]}",
            )  # fmt: skip
        if "warnings" in found:
            self._long.add(order.text)
        return picture

    def _body(self, order: Order) -> dict[str, Any]:
        model, name = self.config.model, self.backend.served_model
        found = {"prompt": order.text, "n": 1, "size": f"{model.width}x{model.height}",
                 "response_format": "b64_json", **({"model": name} if name else {})}  # fmt: skip
        if self.backend.dialect is Dialect.openai:
            return found
        return {**found, "seed": order.seed, "noise": "shared" if order.shared else "own"}

    def _patiently(self, body: bytes) -> tuple[int, bytes]:
        """Ask, and again while the server has no room, as long as a picture may take."""
        url = f"{self.backend.url.rstrip('/')}/v1/images/generations"
        end = time.monotonic() + self.backend.timeout_s
        while True:
            code, content, wait_s = self._request_within(end, "POST", url, body)
            if code not in _BUSY or time.monotonic() + wait_s > end:
                return code, content
            with self._counting:
                self.waits += 1
            time.sleep(wait_s)

    def _request(self, method: str, url: str) -> tuple[int, bytes]:
        return self._request_within(time.monotonic() + _CONNECT_S, method, url, None)[:2]

    def _request_within(
        self, end: float, method: str, url: str, body: bytes | None
    ) -> tuple[int, bytes, float]:
        """Status, content, and seconds to wait where it says so."""
        try:
            try:
                found = self._once(end, method, url, body)
            except (urllib3.exceptions.ProtocolError, urllib3.exceptions.NewConnectionError):
                # A connection that the server gave up while nobody used it is no failure.
                found = self._once(end, method, url, body)
        except urllib3.exceptions.HTTPError as error:
            if body is not None and isinstance(error, urllib3.exceptions.ReadTimeoutError):
                limit_s = self.backend.timeout_s
                raise SdxlError(
                    "the server drew no picture in time", f"{url}: {error}",
                    f"an answer within {limit_s:g} s", f"backend.timeout_s={2 * limit_s:g}",
                ) from error  # fmt: skip
            kind = UserError if body is None else SdxlError  # it did answer a moment ago
            raise kind(
                "no server answers there", f"{url}: {error}", "a server that runs",
                "python -m sdxl serve   # or backend.url=http://HOST:PORT",
            ) from error  # fmt: skip
        again = found.headers.get("Retry-After", "")
        return found.status, found.data, float(again) if again.isdecimal() else 1.0

    def _once(self, end: float, method: str, url: str, body: bytes | None) -> Any:
        limit = urllib3.Timeout(connect=_CONNECT_S, read=max(0.1, end - time.monotonic()))
        return self._pool.request(
            method, url, body=body, headers=self._headers, timeout=limit, redirect=False
        )

    def _differences(self, served: dict[str, Any], facts: dict[str, Any]) -> Iterator[Problem]:
        """Settings of the run that the server's are not."""
        config = self.config
        if self._seeded(facts) and served["seed"] != config.seed:
            yield self._apart("seed", config.seed, served["seed"])
        for group, settings in drawn_with(config).items():
            theirs = served.get(group, {})
            for name in sorted({*settings, *theirs} - {*NOT_SERVED}):
                ours, there = settings.get(name), theirs.get(name)
                if ours != there and not (name == "noise" and there == "shared"):
                    yield self._apart(f"{group}.{name}", ours, there)

    def _seeded(self, facts: dict[str, Any]) -> bool:
        """Whether more than a picture's own noise is drawn from the setting's seed."""
        model = self.config.model
        random = isinstance(model, schema.TinyModel | schema.RandomModel)
        stepwise = facts.get("schedule", {}).get("noise", "none") != "none"
        return random or model.noise is schema.Noise.shared or stepwise

    def _apart(self, key: str, ours: Any, theirs: Any) -> Problem:
        return Problem(
            f"the server at {self.backend.url} has another `{key}`",
            typed(key, ours), f"the server's: {typed(key, theirs)}",
            "python -m sdxl serve, with the words of this run",
        )  # fmt: skip


def _object(content: bytes) -> dict[str, Any]:
    """A JSON object; empty for anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
