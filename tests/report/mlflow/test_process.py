"""Servers that misbehave: after the deadline a warning and the line for later, nothing worse."""

import http.server
import json
import os
import socket
import threading
import time

import psutil
import pytest

from sdxl.config import schema
from sdxl.report.mlflow import client, curves, process, sweeps
from tests.report.mlflow.mlflow_store import FAST

PATIENCE_S = 2


@pytest.fixture(autouse=True)
def no_grudge(monkeypatch):
    """Ports are given again: what another test's server missed is forgotten."""
    monkeypatch.setattr(process, "_missed", {})
    client.asked("open", schema.Tracking("mlflow"))  # importing MLflow is not what is timed here


@pytest.fixture
def server():
    """A server that answers each request by `behave(handler, number)`; its address."""
    made = []

    def serve(behave):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                made[0].asked += 1
                behave(self, made[0].asked)

            def do_GET(self):
                self.do_POST()

            def log_message(self, *_):
                pass

        made.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        made[0].asked, made[0].daemon_threads = 0, True
        threading.Thread(target=made[0].serve_forever, daemon=True).start()
        return f"http://me:s3cret!@127.0.0.1:{made[0].server_address[1]}"

    yield serve
    for each in made:
        each.shutdown()
        each.server_close()


def status(code, **headers):
    def behave(handler, _):
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return behave


def drip(handler, _):
    """A byte now and then: no time limit of a single read is ever reached."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.2)


def deaf(_, __):
    time.sleep(1000)


def dying(handler, number):
    """Knows the experiment, makes a run, and is gone."""
    if number > 3:
        handler.connection.close()
        return
    experiment = {"experiment_id": "1", "name": "sdxl", "lifecycle_stage": "active"}
    answer = {
        "experiment": experiment,
        "run": {"info": {"run_id": "r", "experiment_id": "1", "status": "RUNNING"}, "data": {}},
    }
    body = json.dumps(answer).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


MISBEHAVED = {
    "429": status(429, Retry_After="3600"),
    "503": status(503, Retry_After="3600"),
    "500": status(500),
    "drip": drip,
    "deaf": deaf,
    "dying": dying,
}


@pytest.mark.parametrize("behave", MISBEHAVED.values(), ids=MISBEHAVED)
def test_a_server_that_misbehaves_costs_no_more_than_the_deadline(measured, server, behave, capfd):
    uri = server(behave)
    tracking = schema.Tracking("mlflow", True, uri, timeout_s=PATIENCE_S)
    began = time.monotonic()
    assert client.log(measured / "record.json", tracking) == {"mlflow_run": None}
    assert time.monotonic() - began < PATIENCE_S + 8
    out, err = capfd.readouterr()
    assert out == "" and err.count("warning") == 1
    shown = uri.replace("me:s3cret!@", "")
    later = f"python -m sdxl mlflow upload {measured / 'record.json'} --uri {shown}"
    assert err.splitlines()[-1].strip() == later and "s3cret" not in err


def test_an_address_that_missed_its_deadline_is_not_asked_again_at_once(measured, server, capfd):
    tracking = schema.Tracking("mlflow", True, server(deaf), timeout_s=1)
    client.log(measured / "record.json", tracking)
    began = time.monotonic()
    for _ in range(5):
        client.log(measured / "record.json", tracking)
    assert sweeps.begin("a sweep", tracking, measured) is None
    curves.Curves(tracking, "train", {}, None).log(1, {"loss": 1.0})
    assert time.monotonic() - began < 1
    assert capfd.readouterr().err.count("mlflow upload") == 6


def test_a_name_that_takes_for_ever_to_resolve(measured, tmp_path, monkeypatch, capfd):
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, time\nsocket.getaddrinfo = lambda *_, **__: time.sleep(1000)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process.stop()
    tracking = schema.Tracking("mlflow", True, "http://tracking.example:5000", timeout_s=1)
    assert client.log(measured / "record.json", tracking) == {"mlflow_run": None}
    assert "no answer within 1 s" in capfd.readouterr().err


def test_a_proxy_that_never_answers(measured, monkeypatch, capfd):
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        tracking = schema.Tracking("mlflow", True, "http://tracking.example:5000", timeout_s=1)
        assert client.log(measured / "record.json", tracking) == {"mlflow_run": None}
    assert "no answer within 1 s" in capfd.readouterr().err


def test_the_helper_ends_with_its_command_and_is_not_stopped_by_ctrl_c(store):
    assert client.asked("open", store.settings) is None
    helper = psutil.Process(process._helpers[0]._process.pid)
    assert os.getpgid(helper.pid) != os.getpgid(0)
    assert "s3cret" not in " ".join(helper.cmdline())
    helper.kill()
    helper.wait(10)
    assert client.asked("open", store.settings) is None, "another one is started"
    again = psutil.Process(process._helpers[0]._process.pid)
    process._helpers[0]._process.stdin.close()  # as when its command is gone
    assert again.wait(10) == 0


@pytest.mark.slow
def test_a_run_is_what_it_was_measured_when_mlflow_hangs(cli, server):
    done = cli(*FAST, f"tracking.uri={server(MISBEHAVED['429'])}", "tracking.timeout_s=5")
    assert (done.code, done.json["status"], done.json["mlflow_run"]) == (0, "ok", None)
    assert done.record["status"] == "ok" and "mlflow upload" in done.err
    assert "s3cret" not in done.out + done.err + (done.dir / "record.json").read_text()
