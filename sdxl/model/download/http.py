"""One file over HTTP: resumed where it broke off, tried a few times, checked before it is named.

Ours, since the known downloaders do less: huggingface_hub 2 throws away what it has of a file that
breaks off, and pooch starts from the first byte; of 10 GB in one file that is felt.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sdxl.core import store, terminal
from sdxl.core.errors import SdxlError, UserError

TIMEOUT_S = 10.0
"""Longest silence of a server, while connecting and between two blocks."""

ATTEMPTS = 4
"""Tries without a single new byte before giving up."""

WAIT_S = 1.0
"""First pause between tries; doubles."""

BLOCK = 1 << 20
_PASSING = {408, 425, 429, 500, 502, 503, 504}

Check = Callable[[Path], str | None]
"""What is wrong with a file, or None."""

Advance = Callable[[int, int | None], None]
"""Told the bytes that are there and, where known, the bytes that there will be."""


class UnreachableError(UserError):
    """No server answered: offline, a firewall, a missing proxy."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"{host} cannot be reached: {reason}")
        self.host, self.reason = host, reason


class WrongFileError(UserError):
    """A file is there, and is not the one it should be."""


class _RefusedError(Exception):
    """The server answered, and will not give this file."""


def fetch(urls: Sequence[str], target: Path, check: Check, size: int | None = None) -> None:
    """Download the first of `urls` that works to `target`.

    The bytes grow in `target.part`, which an interruption leaves for the next call; the file gets
    its name only after `check` finds nothing wrong. Raises `UnreachableError`, or `SdxlError` for a
    file that is refused, keeps breaking off, or is not the right one (which is removed).
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not size or _size(part) != size:
            _first_of(urls, part, size)
        problem = check(part)
        if problem:
            _forget(part)
            raise SdxlError(f"{target.name}: what was downloaded is not the file", problem)
        part.replace(target)
        _forget(part)
    except OSError as error:
        raise store.disk_error(error, target.parent) from error


def place(target: Path, write: Callable[[Path], Any], check: Check) -> None:
    """Write a file under another name, check it, and give it its name; nothing half-written stays.

    Raises `WrongFileError` if `check` finds something wrong.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        problem = check(temporary)
        if problem:
            raise WrongFileError(f"this is not {target.name} as it was published", problem)
        temporary.replace(target)
    except OSError as error:
        raise store.disk_error(error, target.parent) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _first_of(urls: Sequence[str], part: Path, size: int | None) -> None:
    refusals: list[str] = []
    silent: dict[str, UnreachableError] = {}
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https"):
            raise UserError(f"{url} is no web address", expected="https://...")
        if urlsplit(url).netloc in silent:
            continue
        try:
            with progress(part.stem) as advance:
                _transfer(url, part, size, advance)
            return
        except UnreachableError as error:
            silent[urlsplit(url).netloc] = error
        except _RefusedError as refused:
            refusals.append(f"{url}: {refused}")
    if silent and not refusals:
        raise next(iter(silent.values()))
    refusals += [str(error) for error in silent.values()]
    raise SdxlError(f"{part.stem} is no longer where it was published", "; ".join(refusals))


def _transfer(url: str, part: Path, size: int | None, advance: Advance) -> None:
    """Repeat the request, each time from where the last one ended, until nothing is missing."""
    answered, idle, wait = False, 0, WAIT_S
    while True:
        before = _size(part)
        try:
            if _once(url, part, size, advance):
                return
            reason = "the connection was cut"
            answered = True
        except urllib.error.HTTPError as error:
            answered = True
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and before:
                if error.headers.get("Content-Range") == f"bytes */{before}":
                    return
                _forget(part)  # longer than the file, or of another file
            elif error.code not in _PASSING:
                raise _RefusedError(reason) from error
        except (urllib.error.URLError, _NetworkError) as error:
            cause = getattr(error, "reason", None) or error.__cause__
            reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            if isinstance(cause, TimeoutError):
                reason = f"no answer for {TIMEOUT_S:g} s"
            # A host that never answered is not waited for: offline must be said within seconds.
            if not answered and isinstance(error, urllib.error.URLError):
                raise UnreachableError(urlsplit(url).netloc, reason) from error
        if _size(part) > before:
            idle, wait = 0, WAIT_S
        idle += 1
        if idle >= ATTEMPTS:
            raise SdxlError(
                f"{part.stem} keeps breaking off: {reason}",
                f"{_size(part):,} bytes after {ATTEMPTS} tries without a new one",
                "the rest; run the same command again to go on from there",
            )
        time.sleep(wait)
        wait *= 2


class _NetworkError(Exception):
    """The connection broke after it had been made."""


def _once(url: str, part: Path, size: int | None, advance: Advance) -> bool:
    """One request; True when the file is complete."""
    have = _size(part)
    headers = {"User-Agent": "sdxl-bench", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if _tag(part).exists():  # another file by now: the server sends all of it
            headers["If-Range"] = _tag(part).read_text()
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (scheme checked)
    with _ask(request) as answer:
        start, total = _extent(answer)
        if start not in (0, have):
            _forget(part)
            return False
        if size and total and total != size:
            _forget(part)
            raise _RefusedError(f"{total:,} bytes are offered, the file has {size:,}")
        total = total or size
        _need_space(part, (total or 0) - start)
        etag = answer.headers.get("ETag") or ""
        if etag.startswith('"'):  # a weak tag says nothing about single bytes
            _tag(part).write_text(etag)
        else:
            _tag(part).unlink(missing_ok=True)
        there = start
        with part.open("ab" if start else "wb") as file:
            while block := _read(answer):
                file.write(block)
                there += len(block)
                advance(there, total)
    return total is None or there == total


def _ask(request: urllib.request.Request) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.URLError:
        raise
    except TimeoutError as error:  # connected, and then silence: a firewall, mostly
        raise urllib.error.URLError(error) from error
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError from error


def _read(answer: http.client.HTTPResponse) -> bytes:
    """The next block; network failures are told from disk failures, both of which are OSError."""
    try:
        return answer.read1(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _NetworkError from error


def _extent(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """First byte and full length of what a server sends."""
    if answer.status == http.client.PARTIAL_CONTENT:
        span, _, total = (answer.headers.get("Content-Range") or "").partition("/")
        first = span.removeprefix("bytes").strip().split("-")[0]
        return int(first) if first.isdigit() else -1, int(total) if total.isdigit() else None
    length = answer.headers.get("Content-Length") or ""
    return 0, int(length) if length.isdigit() else None


def _need_space(part: Path, wanted: int) -> None:
    if wanted > shutil.disk_usage(part.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part))


def _size(part: Path) -> int:
    """Bytes that are there already."""
    return part.stat().st_size if part.exists() else 0


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


@contextlib.contextmanager
def progress(name: str) -> Iterator[Advance]:
    """A bar on standard error, or one plain line where that is not a terminal."""
    if not sys.stderr.isatty():
        terminal.say(f"fetching {name}")
        yield lambda there, total: None
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda there, total: bar.update(task, completed=there, total=total)
