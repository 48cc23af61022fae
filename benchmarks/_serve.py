"""What the serving benchmarks share: a server in a process of its own, clients, odd requests."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import psutil
from PIL import Image

from sdxl.core.paths import ROOT

PATH = "/v1/images/generations"
PROMPT = "a red cube left of a blue sphere"
NEAR = 2
"""Levels of 255 that a picture may differ by where it was drawn in batches of another size."""


class Served:
    """`python -m sdxl serve WORDS` until the block ends; `url`, `pid`, `line` when it has ended."""

    def __init__(self, *words: str, ready_s: float = 300.0) -> None:
        self._words, self._ready_s = words, ready_s
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        self.line: dict = {}
        self._told = False

    def __enter__(self) -> Served:
        line = [sys.executable, "-m", "sdxl", "serve", "--port", "0", *self._words]
        self._process = subprocess.Popen(
            line, cwd=ROOT, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.pid = self._process.pid
        began = time.monotonic()
        while not (found := re.search(r"(http://\S+) answers", self.said())):
            self._alive(began)
        self.url = found[1]
        while status(self.url, "/health") != 200:
            self._alive(began)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        out, _ = self._process.communicate(timeout=120)
        self.code = self._process.returncode
        self.line = json.loads(out.splitlines()[-1]) if out.strip() else {}

    def stop(self) -> None:
        """Tell it to end; a second signal would end it at once."""
        if not self._told and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._told = True

    def said(self) -> str:
        return Path(self._log.name).read_text()

    def workers(self) -> list[psutil.Process]:
        """The processes that draw: children that hold an answer's shared block."""
        family = psutil.Process(self.pid).children(recursive=True)
        return [each for each in family if _draws(each)]

    def _alive(self, began: float) -> None:
        if self._process.poll() is not None or time.monotonic() - began > self._ready_s:
            raise SystemExit(f"the server did not come up: {self.said()[-2000:]}")
        time.sleep(0.1)


def _draws(process: psutil.Process) -> bool:
    try:
        begun = "multiprocessing" in " ".join(process.cmdline())  # not a replica of Ray's
        return begun and any("/dev/shm/sdxl-" in each.path for each in process.memory_maps())
    except psutil.Error:
        return False


def connect(url: str, timeout_s: float = 600.0) -> HTTPConnection:
    return HTTPConnection(urlsplit(url).netloc, timeout=timeout_s)


def status(url: str, path: str) -> int:
    """Of a GET; 0 where nobody answers."""
    try:
        line = connect(url, 10.0)
        line.request("GET", path)
        return line.getresponse().status
    except OSError:
        return 0


def ask(line: HTTPConnection, body: dict | bytes, headers: dict | None = None):
    """(status, headers, content) of one request."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    line.request("POST", PATH, sent, {"Content-Type": "application/json", **(headers or {})})
    found = line.getresponse()
    return found.status, found.headers, found.read()


def pictures(content: bytes) -> list[np.ndarray]:
    """The pictures of an answer."""
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(each["b64_json"]))))
        for each in json.loads(content)["data"]
    ]


@dataclass
class Account:
    """What clients saw, from several threads."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    first: dict[int, np.ndarray] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, seed: int, code: int, content: bytes, seconds: float) -> None:
        with self.lock:
            self.statuses[code] += 1
            if code == 200:
                self.seconds.append(seconds)
                self._compare(seed, pictures(content)[0])
            elif code != 429:
                self.wrong.append(f"{code}: {content[:200]!r}")

    def _compare(self, seed: int, picture: np.ndarray) -> None:
        """The same seed is the same picture, whoever asked and whatever it was drawn with."""
        known = self.first.setdefault(seed, picture)
        if np.abs(known.astype(int) - picture).max() > NEAR:
            self.wrong.append(f"seed {seed}: another picture")

    def percentile(self, share: float) -> float:
        """Seconds."""
        return float(np.quantile(self.seconds, share)) if self.seconds else float("nan")


def clients(url: str, count: int, over: threading.Event, account: Account, seeds: int = 64):
    """Threads that ask for one picture after the other until `over`, each on its connection."""

    def work(number: int) -> None:
        chance, line = random.Random(number), connect(url)
        while not over.is_set():
            seed, began = chance.randrange(seeds), time.perf_counter()
            try:
                code, headers, content = ask(line, {"prompt": PROMPT, "seed": seed})
            except OSError as error:
                with account.lock:
                    account.wrong.append(f"{type(error).__name__}: {error}")
                line = connect(url)
                continue
            account.take(seed, code, content, time.perf_counter() - began)
            if code == 429:
                over.wait(min(1.0, float(headers["Retry-After"])))

    found = [threading.Thread(target=work, args=(each,), daemon=True) for each in range(count)]
    for thread in found:
        thread.start()
    return found


def slow_clients(url: str, count: int) -> list[socket.socket]:
    """Clients that never finish: half a header, half a body, or an answer that is not read."""
    place = urlsplit(url)
    body = json.dumps({"prompt": PROMPT, "n": 4}).encode()
    head = (f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()  # fmt: skip
    kinds = (head[:30], head + body[:5], head + body)
    found = []
    for number in range(count):
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        line.connect((place.hostname, place.port))
        line.sendall(kinds[number % len(kinds)])
        found.append(line)
    return found


def kill(served: Served) -> int:
    """SIGKILL one worker; returns which."""
    (victim, *_) = served.workers()
    os.kill(victim.pid, signal.SIGKILL)
    return victim.pid


_FIELDS = ("prompt", "n", "size", "seed", "steps", "guidance", "noise", "negative_prompt", "model",
           "response_format", "user", "stream", "x", "__proto__", "")  # fmt: skip
_VALUES = (None, True, -1, 0, 11, 1 << 70, 1.5, -0.0, "", " ", "\x00", "\ud800", "url", "1x1",
           "a" * 5000, [], [1], {}, {"a": 1}, "shared", "dall-e-3")  # fmt: skip


def odd_request(chance: random.Random) -> tuple[bytes, dict[str, str]]:
    """A body and headers that are wrong in one of many ways."""
    kind = chance.randrange(6)
    if kind == 0:
        return chance.randbytes(chance.randrange(200)), {}
    whole = json.dumps({"prompt": PROMPT, "n": 1}).encode()
    if kind == 1:
        return whole[: chance.randrange(len(whole))], {}
    if kind == 2:
        depth = chance.randrange(1, 20_000)
        return b'{"prompt":' + b"[" * depth + b"]" * chance.choice((0, depth)) + b"}", {}
    if kind == 3:
        types = ("text/plain", "application/x-www-form-urlencoded", "", "json", "a" * 300)
        return whole, {"Content-Type": chance.choice(types)}
    if kind == 4:
        return b'{"prompt": "' + b"a" * chance.randrange(5_000, 200_000) + b'"}', {}
    while True:
        odd = {chance.choice(_FIELDS): chance.choice(_VALUES) for _ in range(3)}
        if "prompt" not in odd or not _may_be_fine(odd):
            return json.dumps(odd).encode(), {}


def _may_be_fine(odd: dict) -> bool:
    """Whether the values could pass: such requests are none of these."""
    fine = {
        "prompt": lambda v: isinstance(v, str) and v.strip() and len(v) <= 4000 and v != "\ud800",
        "seed": lambda v: v is None or (v == 0 and v is not True),
        "n": lambda v: v is None, "size": lambda v: v is None, "steps": lambda v: v is None,
        "guidance": lambda v: v is None, "model": lambda v: v is None,
        "noise": lambda v: v is None, "response_format": lambda v: v is None,
        "stream": lambda v: v is None, "user": lambda v: v is None or isinstance(v, str),
        "negative_prompt": lambda v: v is None or isinstance(v, str),
    }  # fmt: skip
    return all(name in fine and bool(fine[name](value)) for name, value in odd.items())


def fuzz(url: str, count: int, seed: int = 0) -> list[str]:
    """Send odd requests; what was not answered by 4xx in OpenAI's form, or had a traceback."""
    chance, wrong = random.Random(seed), []
    for number in range(count):
        body, headers = odd_request(chance)
        line = connect(url, 30.0)
        try:
            code, _, content = ask(line, body, headers)
            message = json.loads(content)["error"]["message"]
        except (OSError, ValueError, KeyError) as error:
            wrong.append(f"{number}: {type(error).__name__}: {error}: {body[:80]!r}")
            continue
        finally:
            line.close()
        if not 400 <= code < 500 or "Traceback" in message or not message:
            wrong.append(f"{number}: {code} {message[:80]} for {body[:80]!r}")
    return wrong


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
