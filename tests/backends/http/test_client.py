"""The client: whose server it is, what is asked of it, pictures by prompt, refusals in words."""

import base64
import io
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from sdxl.backends import fake
from sdxl.backends.http import BACKEND
from sdxl.backends.http.client import Client
from sdxl.backends.http.config import Dialect
from sdxl.bench import generators
from sdxl.config.derive import drawn_with
from sdxl.core.errors import ConfigError, SdxlError, UserError
from sdxl.core.secrets import SERVE_TOKEN
from sdxl.core.types import Asks, Draws, Prompt
from sdxl.run.serve.engine import Engine
from tests.run.serve.conftest import Running, configured

PROMPTS = [Prompt(place, f"cube {place}", place) for place in range(6)]


@pytest.fixture(scope="module")
def ours():
    """Our server on the fake backend, with a token."""
    engine = Engine(configured(), {}, 64)
    engine.open()
    made = Running(engine, token="let-me-in-1")
    yield made
    made.end()
    engine.close()


@pytest.fixture
def asked(load, monkeypatch):
    monkeypatch.setenv(SERVE_TOKEN, "let-me-in-1")

    def make(url, *words):
        return load("backend=http", f"backend.url={url}", "model=tiny", *words)

    return make


class Other(BaseHTTPRequestHandler):
    """Somebody else's server: answers by a list of (status, headers, body)."""

    def do_POST(self):
        server = self.server
        server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        code, headers, body = server.answers.pop(0) if server.answers else (200, {}, server.usual)
        self.send_response(code)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def answer(side=128, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 7, np.uint8)).save(file, kind)
    data = {"data": [{"b64_json": base64.b64encode(file.getvalue()).decode()}]}
    return json.dumps(data).encode()


@pytest.fixture
def other():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    server.bodies, server.answers, server.usual = [], [], answer()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_pictures_are_those_of_a_measurement_here(ours, asked):
    client = generators.open_generator(asked(ours.url), {}, PROMPTS)
    assert isinstance(client, Asks) and isinstance(client, Draws) and len(client.lanes) == 16
    here = fake.BACKEND.open(ours.engine.config, {}).generate([3, 0, 5])
    assert np.array_equal(client.generate([3, 0, 5]), here)
    facts = client.describe()
    assert facts["server"]["backend"] == "fake" and facts["server"]["batch_size"] == 4
    client.close()


def test_a_server_that_loads_is_waited_for(asked):
    engine = Engine(configured(), {}, 64)
    running = Running(engine)
    opening = threading.Timer(0.3, engine.open)
    opening.start()
    client = BACKEND.open(asked(running.url), {})
    assert client.describe()["server"]["facts"]["backend"] == "fake"
    opening.join()
    running.end()
    engine.close()


def test_a_server_with_other_settings_is_refused_with_all_of_them(ours, asked):
    with pytest.raises(ConfigError) as refused:
        BACKEND.open(asked(ours.url, "model.steps=4", "scheduler=ddim"), {})
    said = str(refused.value)
    assert "another `model.steps`" in said and "the server's: scheduler.name=auto" in said
    with pytest.raises(ConfigError, match=r"another `model.name`"):
        BACKEND.open(asked(ours.url, "model=tiny_random", "seed=3"), {})


@pytest.mark.parametrize(
    ("noise", "stepwise", "apart"),
    [("per_prompt", "none", False), ("shared", "none", True), ("per_prompt", "each step", True)],
)
def test_a_seed_that_decides_the_pictures_must_be_the_servers(load, noise, stepwise, apart):
    """Of the shared latent, and of what a scheduler adds at each step, no request says it."""
    config = load("backend=http", "model=sdxl", f"model.noise={noise}", "rules=open", "seed=5")
    served = {"backend": "torch", "seed": 0, **drawn_with(config)}
    client = Client(config, config.backend)
    found = [*client._differences(served, {"schedule": {"noise": stepwise}})]
    assert ["`seed`" in each.what for each in found] == [True] * apart


def test_a_token_is_needed_and_named(ours, asked, monkeypatch):
    config = asked(ours.url)
    monkeypatch.delenv(SERVE_TOKEN)
    with pytest.raises(UserError, match="token") as refused:
        BACKEND.open(config, {})
    assert SERVE_TOKEN in refused.value.problems[0].fix


def test_of_another_server_only_openais_fields_are_asked(other, asked):
    with pytest.raises(UserError, match="another kind of server") as refused:
        BACKEND.open(asked(other.url), {})
    assert refused.value.problems[0].fix == "backend.dialect=openai"
    words = ("backend.dialect=openai", "backend.served_model=dall-e-2")
    other.usual = answer(kind="JPEG")
    client = generators.open_generator(asked(other.url, *words), {}, PROMPTS)
    assert client.generate([0, 1]).shape == (2, 128, 128, 3)
    assert other.bodies[1] == {"prompt": "cube 1", "n": 1, "size": "128x128",
                               "response_format": "b64_json", "model": "dall-e-2"}  # fmt: skip


def test_a_full_queue_is_waited_for_and_counted(other, asked):
    client = generators.open_generator(asked(other.url, "backend.dialect=openai"), {}, PROMPTS)
    other.answers = [(429, {"Retry-After": "0"}, b"{}"), (503, {"Retry-After": "0"}, b"{}")]
    client.generate([0])
    assert client.describe()["server"]["queue_was_full"] == 2 and len(other.bodies) == 3
    client.backend.timeout_s = 0.5
    other.answers = [(429, {"Retry-After": "60"}, b'{"error": {"message": "come again"}}')]
    with pytest.raises(SdxlError, match="drew no picture") as full:
        client.generate([0])
    assert "come again" in str(full.value)


def test_prompts_that_the_server_cut_are_counted_once_each(other, asked):
    client = generators.open_generator(asked(other.url, "backend.dialect=openai"), {}, PROMPTS)
    assert "prompts_truncated" not in client.describe(), "what others read is not known"
    client.backend.dialect = Dialect.sdxl
    cut = json.dumps({**json.loads(other.usual), "warnings": ["too long"]}).encode()
    other.answers = [(200, {}, each) for each in (cut, other.usual, cut)]
    client.generate([0, 1, 0])
    assert client.describe()["prompts_truncated"] == 1


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ((500, {}, b'{"error": {"message": "out of memory"}}'), "out of memory"),
        ((404, {}, b"<html>no</html>"), "404"),
        ((307, {"location": "http://127.0.0.1:1/"}, b""), "307"),
        ((200, {}, b"[]"), "holds no picture"),
        ((200, {}, b'{"data": []}'), "holds no picture"),
        ((200, {}, b'{"data": [{"url": "http://x/1.png"}]}'), "holds no picture"),
        ((200, {}, b'{"data": [{"b64_json": "AAAA"}]}'), "holds no picture"),
        ((200, {}, answer(64)), "another size"),
    ],
)
def test_what_is_no_picture_fails_in_words(other, asked, said, expected):
    client = generators.open_generator(asked(other.url, "backend.dialect=openai"), {}, PROMPTS)
    other.answers = [said]
    with pytest.raises(SdxlError) as failed:
        client.generate([0])
    assert expected in str(failed.value)


def test_a_picture_that_takes_too_long_is_not_asked_for_again(asked):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        words = ("backend.dialect=openai", "backend.timeout_s=0.3")
        client = generators.open_generator(asked(url, *words), {}, PROMPTS)
        with pytest.raises(SdxlError, match="no picture in time") as late:
            client.generate([0])
        assert late.value.problems[0].fix == "backend.timeout_s=0.6"
        silent.accept()[0].close()
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_connection_that_was_given_up_is_opened_again_once(asked):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        client = generators.open_generator(asked(url, "backend.dialect=openai"), {}, PROMPTS)
        body, seen = answer(), []

        def serve():
            for place in range(2):
                line, _ = listening.accept()
                seen.append(line.recv(4096))
                if place == 1:
                    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                    line.sendall(body)
                line.close()

        threading.Thread(target=serve, daemon=True).start()
        assert client.generate([0]).shape == (1, 128, 128, 3) and len(seen) == 2


def test_no_server_is_named_with_the_line_that_starts_one(asked):
    with pytest.raises(UserError, match="no server answers") as refused:
        BACKEND.open(asked("http://127.0.0.1:9"), {})
    assert "python -m sdxl serve" in refused.value.problems[0].fix


def test_loadgen_drives_a_server(ours, cli, monkeypatch):
    """The record of a measurement over HTTP: VALID, every picture its prompt's, marked."""
    monkeypatch.setenv(SERVE_TOKEN, "let-me-in-1")
    done = cli("backend=http", f"backend.url={ours.url}", "model=tiny", "limit=8",
               "scenario=Server", "scenario.target_qps=40", "backend.concurrency=8")  # fmt: skip
    assert done.code == 0, done.out + done.err
    record = done.record
    assert record["status"] == "ok" and record["comparable"] is False
    assert record["comparable_reason"].startswith("measured over HTTP: http://127.0.0.1")
    here = fake.BACKEND.open(ours.engine.config, {}).generate([*range(8)])
    from sdxl.model.images import pixel_hash

    assert [each["sha256"] for each in record["images"]] == [pixel_hash(each) for each in here]
    assert record["performance"]["generator"]["server"]["backend"] == "fake"
    assert "let-me-in-1" not in done.out + done.err + json.dumps(record)
