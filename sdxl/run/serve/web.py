"""uvicorn with patience that ends, and an end that finishes what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sdxl.core import ends
from sdxl.core.errors import UserError

ASK_S = 20.0
"""A client may take for a whole header, from connecting or from its first byte."""
READ_S = 60.0
"""A client may take to read what it was sent."""
IDLE_S = 65.0
"""A connection may be kept without a request."""
SPARE_CONNECTIONS = 256
"""Beside two for each picture that may wait: health, metrics, clients that come too soon."""
_FILES = 128
"""That a server has open besides its connections."""
CROWDED = "crowded"
"""Marks requests (in `scope["state"]`) of a connection that is one too many."""


class Patient(H11Protocol):
    """A connection that a client cannot hold for ever, by asking or by reading slowly.

    uvicorn limits neither: it would keep the socket, and an unread picture in memory.
    """

    _reading: asyncio.TimerHandle | None = None
    _asking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's, with a limit for the first header and for the number of connections.

        uvicorn's own refusal is no answer in OpenAI's form, and a silent crowd would pass it.
        """
        super().connection_made(transport)
        self._begin_asking()
        most, self.limit_concurrency = self.limit_concurrency, None
        count = len(self.connections)
        if most is not None and count > most:
            self.app_state = {**self.app_state, CROWDED: True}
            if count > 2 * most:
                transport.abort()

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, with a limit for each further header on the same connection."""
        self._begin_asking()
        super().data_received(data)
        if self.cycle and not self.cycle.response_complete:
            self._end_asking()

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's; nothing is waited for any more."""
        self._end_asking()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is sent to."""
        super().pause_writing()
        self._reading = self.loop.call_later(READ_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        if self._reading:
            self._reading.cancel()

    def _begin_asking(self) -> None:
        if self._asking is None:
            self._asking = self.loop.call_later(ASK_S, self.transport.abort)

    def _end_asking(self) -> None:
        if self._asking:
            self._asking.cancel()
        self._asking = None


class Server(uvicorn.Server):
    """Ends at the first signal with what was accepted, at the second at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ours, and nothing raised again afterwards: a signal is how a server ends."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in ends.SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A signal."""
        self.force_exit = self.should_exit
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises `UserError` where it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(
            "the server cannot listen there", f"{host} port {port}: {error}",
            "an address of this machine and a free port", "--port 0   # any free port",
        ) from error  # fmt: skip


def address_of(sock: socket.socket) -> str:
    """http://HOST:PORT of a listening socket."""
    return address(*sock.getsockname()[:2])


def address(host: str, port: int) -> str:
    """http://HOST:PORT, with brackets around an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def most_connections(queue: int) -> int:
    """Connections that are served: enough for a queue of this length, if files suffice."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = SPARE_CONNECTIONS + 2 * queue
    return wanted if files == resource.RLIM_INFINITY else max(1, min(wanted, (files - _FILES) // 2))


def server_of(app: Callable[..., Any], most: int | None = None) -> Server:
    """uvicorn around an application for `most` connections; nothing is logged but errors."""
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return Server(
        uvicorn.Config(
            app, http=Patient, ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, timeout_keep_alive=round(IDLE_S), limit_concurrency=most,
        )
    )  # fmt: skip
