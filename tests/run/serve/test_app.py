"""The HTTP side: OpenAI's form, limits, slow clients, health, metrics, the token."""

import contextlib
import json
import socket
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest

from sdxl.run.serve import app as serving
from sdxl.run.serve import hosts, web
from sdxl.run.serve.app import Service
from sdxl.run.serve.engine import Engine
from tests.run.serve import odd
from tests.run.serve.conftest import Running, configured

import _serve  # isort: skip


def asked(running, **fields):
    body = fields.pop("body", None) or {"prompt": "a cube", **fields}
    code, headers, content = _serve.ask(_serve.connect(running.url, 60), body)
    return code, headers, json.loads(content)


def _place(url):
    return urlsplit(url).hostname, urlsplit(url).port


def get(running, path, **headers):
    line = _serve.connect(running.url, 60)
    line.request("GET", path, headers=headers)
    found = line.getresponse()
    return found.status, found.read().decode()


def test_pictures_are_those_of_their_seeds(running):
    code, headers, content = _serve.ask(
        _serve.connect(running.url), {"prompt": "a cube", "n": 3, "seed": 5}
    )
    assert code == 200 and headers["content-type"] == "application/json"
    for seed, picture in zip((5, 6, 7), _serve.pictures(content), strict=True):
        assert np.array_equal(picture, odd.picture(seed))
    assert [each["seed"] for each in json.loads(content)["data"]] == [5, 6, 7]
    assert abs(json.loads(content)["created"] - time.time()) < 60


def test_words_that_were_not_read_are_told(running):
    assert "77 tokens" in asked(running, seed=odd.CUT)[2]["warnings"][0]
    assert "warnings" not in asked(running, seed=1)[2]


def test_prompts_that_come_together_are_drawn_together(running):
    running.engine._on_batch = running.metrics.batch
    before = running.metrics.registry.get_sample_value("sdxl_batch_size_count") or 0
    threads = [threading.Thread(target=asked, args=(running,)) for _ in range(4)]
    asked_first = threading.Thread(target=asked, args=(running,), kwargs={"seed": odd.SLOW})
    asked_first.start()
    time.sleep(0.2)  # while the slow one is drawn, four wait
    for thread in threads:
        thread.start()
    for thread in [*threads, asked_first]:
        thread.join()
    after = running.metrics.registry.get_sample_value("sdxl_batch_size_count")
    assert after - before == 2


def test_every_refusal_is_in_openais_form(running):
    for found, expected, code in (
        (asked(running, n=99), 400, "invalid_value"),
        (asked(running, body=b"{"), 400, "invalid_value"),
        (asked(running, body=b'{"prompt": "' + b"a" * (1 << 17) + b'"}'), 413, None),
        (asked(running, seed=odd.NOT_FINITE), 500, "failed"),
    ):
        assert found[0] == expected and found[2]["error"]["code"] == code
    assert found[2]["error"]["type"] == "server_error"
    assert "NaN" in found[2]["error"]["message"] and "Traceback" not in str(found[2])
    code, text = get(running, "/v1/chat/completions")
    assert code == 404 and json.loads(text)["error"]["code"] == "unknown_url"
    line = _serve.connect(running.url)
    line.request("GET", _serve.PATH)
    found = line.getresponse()
    assert found.status == 405 and found.headers["allow"] == "POST"
    line = _serve.connect(running.url)
    assert _serve.ask(line, {"prompt": "x"}, {"Content-Type": "text/plain"})[0] == 415


def test_a_full_queue_says_when_to_come_again(running):
    codes, lock = [], threading.Lock()

    def one(seed):
        code, headers, _ = asked(running, n=4, seed=seed)
        with lock:
            codes.append((code, headers.get("retry-after")))

    threads = [threading.Thread(target=one, args=(odd.SLOW - n % 2,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {code for code, _ in codes} == {200, 429}
    assert all((code == 429) == (again is not None) for code, again in codes)
    assert {int(again) >= 1 for _, again in codes if again} == {True}


def test_slow_clients_are_left_behind_and_harm_nobody(running, monkeypatch):
    monkeypatch.setattr(serving, "BODY_S", 0.3)
    monkeypatch.setattr(web, "ASK_S", 0.3)
    lines = _serve.slow_clients(running.url, 6)
    until = time.monotonic() + 30
    while (code := asked(running)[0]) == 429 and time.monotonic() < until:
        time.sleep(0.05)  # their eight pictures fill the queue until the first batch is drawn
    assert code == 200
    for place, line in enumerate(lines):
        line.settimeout(30)
        said = line.recv(12)
        assert said == (b"", b"HTTP/1.1 408", b"HTTP/1.1 200")[place % 3]
        line.close()


def test_a_second_header_on_a_connection_may_not_take_longer_either(running, monkeypatch):
    monkeypatch.setattr(web, "ASK_S", 0.3)
    place = urlsplit(running.url)
    head = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection((place.hostname, place.port), 30) as line:
        for _ in range(2):
            line.sendall(head)
            said = b""
            while b"ready" not in said:
                said += line.recv(4096)
            time.sleep(0.4)  # a connection may be kept
        with pytest.raises(OSError):
            while True:
                line.sendall(b"G")
                time.sleep(0.1)


def test_an_answer_that_nobody_reads_is_given_up(running, monkeypatch):
    monkeypatch.setattr(web, "READ_S", 0.2)
    ended = threading.Event()
    real = web.Patient.connection_lost
    monkeypatch.setattr(
        web.Patient, "connection_lost", lambda self, exc: (real(self, exc), ended.set())
    )
    made = []
    connected = web.Patient.connection_made
    monkeypatch.setattr(
        web.Patient, "connection_made",
        lambda self, line: (made.append(self), connected(self, line)),
    )  # fmt: skip
    line = socket.create_connection((urlsplit(running.url).hostname, urlsplit(running.url).port))
    while not made:
        time.sleep(0.01)
    running.server.servers[0].get_loop().call_soon_threadsafe(made[0].pause_writing)
    assert ended.wait(30)
    line.close()


def test_a_name_of_another_site_is_refused(running):
    """DNS rebinding: a page's own name leads here, so that its scripts could ask."""
    service = Service(running.engine, running.metrics, names=hosts.names("127.0.0.1", ["Lab"]))
    with Running(running.engine, service=service) as guarded:
        for name in ("localhost:8000", "LOCALHOST", "127.0.0.1:1", "[::1]:8000", "lab:80"):
            assert get(guarded, "/v1/models", Host=name)[0] == 200, name
        for path in ("/health", "/v1/models", "/metrics", "/v1/setting", "/openapi.json"):
            code, text = get(guarded, path, Host="evil.example:8000")
            assert code == 421 and json.loads(text)["error"]["code"] == "unknown_host"
        sent = {"Host": "evil.example", "Content-Type": "application/json"}
        assert _serve.ask(_serve.connect(guarded.url), {"prompt": "x"}, sent)[0] == 421


def test_a_crowd_of_connections_is_told_and_a_larger_one_left_behind(running):
    with Running(running.engine, most=4) as small, contextlib.ExitStack() as lines:
        for _ in range(4):  # silent ones, below the limit
            lines.enter_context(socket.create_connection(_place(small.url)))
        code, headers, content = asked(small)
        assert code == 503 and headers["retry-after"] == "1" and headers["connection"] == "close"
        assert content["error"]["code"] == "too_many_connections"
        assert get(small, "/health")[0] == 200, "a crowd is no reason to start it again"
        crowd = [lines.enter_context(socket.create_connection(_place(small.url))) for _ in range(9)]
        crowd[-1].settimeout(30)
        with contextlib.suppress(ConnectionResetError):
            assert crowd[-1].recv(1) == b"", "it is not kept"
        lines.close()
        end = time.monotonic() + 30
        while asked(small)[0] != 200:
            assert time.monotonic() < end
        assert small.metrics.by_status()["503"] >= 1


def test_the_number_of_connections_follows_the_queue_and_the_open_files(monkeypatch):
    for files, queue, most in ((1 << 20, 64, 384), (1024, 1000, 448), (-1, 1000, 2256)):
        monkeypatch.setattr(web.resource, "getrlimit", lambda _, soft=files: (soft, soft))
        assert web.most_connections(queue) == most


def test_addresses_have_brackets_where_they_need_them():
    assert web.address("::1", 80) == "http://[::1]:80"
    assert web.address("127.0.0.1", 80) == "http://127.0.0.1:80"


def test_a_client_that_leaves_takes_its_orders_back(running):
    first = threading.Thread(target=asked, args=(running,), kwargs={"seed": odd.SLOW})
    first.start()
    time.sleep(0.2)
    place = urlsplit(running.url)
    body = json.dumps({"prompt": "x", "n": 4}).encode()
    with socket.create_connection((place.hostname, place.port)) as line:
        head = f"POST {_serve.PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while running.engine.waiting < 4:
            time.sleep(0.01)
        left = list(running.engine.batches.waiting)
    first.join()
    end = time.monotonic() + 30
    while running.metrics.by_status().get("499", 0) < 1:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert all(job.done.cancelled() for job, _ in left)


def test_health_metrics_models_and_the_setting(running):
    assert get(running, "/health") == (200, '{"status":"ready"}')
    asked(running, n=2)
    code, text = get(running, "/metrics")
    assert code == 200 and "sdxl_queue_images 0.0" in text and "sdxl_ready 1.0" in text
    assert 'sdxl_requests_total{status="200"}' in text
    assert json.loads(get(running, "/v1/models")[1])["data"][0]["id"] == "tiny"
    served = json.loads(get(running, "/v1/setting")[1])
    assert served["server"] == "sdxl" and served["setting"]["model"]["steps"] == 20
    assert "negative_prompt" in get(running, "/openapi.json")[1]


def test_before_it_is_ready_it_says_so_and_a_token_keeps_others_out():
    running = Running(Engine(configured(), {}, 8), token="s3cret-word")
    try:
        assert get(running, "/health")[0] == 503
        for path in ("/metrics", "/v1/models", "/v1/setting", "/openapi.json"):
            assert get(running, path)[0] == 401
            assert get(running, path, Authorization="Bearer s3cret-word")[0] == 200
        assert asked(running)[0] == 401
        code, headers, content = _serve.ask(
            _serve.connect(running.url), {"prompt": "x"}, {"Authorization": "Bearer s3cret-word"}
        )
        assert code == 503 and headers["retry-after"] and b"not_ready" in content
    finally:
        running.end()
