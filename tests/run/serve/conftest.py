"""A server in this process: the odd generator in a worker, uvicorn in a thread."""

import asyncio
import sys
import threading

import pytest

from sdxl.bench import generators
from sdxl.bench.pool import Pool
from sdxl.run.serve import command, web
from sdxl.run.serve.app import Service
from sdxl.run.serve.engine import Engine
from sdxl.run.serve.metrics import Metrics
from tests.conftest import ROOT
from tests.run.serve import odd

sys.path.insert(0, str(ROOT / "benchmarks"))


def configured(*words):
    """What `serve` makes of words, on the fake backend in batches of 4."""
    fake = ("backend=fake", "--batch", "4", "--max-wait-ms", "20")
    return command.configure(command._parser().parse_intermixed_args([*fake, *words]))


def odd_pool(config, _artifacts, _chosen, patience):
    devices = config.backend.devices or [0]
    return Pool(odd.open_odd, (), devices, 4 * odd.SIDE**2 * 3, preload=(), patience=patience)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A warm engine with a queue of 8."""
    patched = pytest.MonkeyPatch()
    patched.setattr(generators, "open_pool", odd_pool)
    patched.setenv(odd.MARK, str(tmp_path_factory.mktemp("odd") / "mark"))
    made = Engine(configured(), {}, 8)
    made.open()
    yield made
    made.close()
    patched.undo()


class Running:
    """Services behind uvicorn in a thread of their own."""

    def __init__(self, engine, token=None, *, service=None, most=None):
        service = service or Service(engine, Metrics(), token)
        self.engine, self.metrics = engine, service.metrics
        self.server = web.server_of(service.app, most)
        self.sock = web.listen("127.0.0.1", 0)
        self.url = web.address_of(self.sock)
        self.thread = threading.Thread(
            target=lambda: asyncio.run(self.server.serve(sockets=[self.sock])), daemon=True
        )
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def running(engine):
    made = Running(engine)
    yield made
    made.end()
