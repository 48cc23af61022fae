"""The doctor's checks on folders, stores and servers made for them, and the preflight."""

from __future__ import annotations

import base64
import http.server
import json
import os
import shutil
import socket
import sqlite3
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdxl.run.doctor import checks, command
from sdxl.run.doctor.checks import Check
from sdxl.run.doctor.mlflow_store import mlflow_store
from tests.nvml import driver


def one(found) -> Check:
    (check,) = list(found)
    return check


def test_this_machine_can_measure(capsys: pytest.CaptureFixture):
    assert command.main([]) == 0
    out = capsys.readouterr().out
    summary = json.loads(out.splitlines()[-1])
    names = {check["name"] for check in summary["checks"]}
    assert {"Python", "processor", "packages", "LoadGen", "GPU", "TensorRT", "MLflow"} <= names
    assert summary["missing"] == 0


@pytest.mark.parametrize(("instructions", "state", "said"), [
    ("avx2", "warning", "cores: avx2; no VNNI"), ("avx2 avx512f avx512_vnni", "ok", "avx512_vnni"),
    ("avx2 avx_vnni", "ok", "avx_vnni"), ("asimddp i8mm", "ok", "i8mm"), ("", "ok", "cores"),
])  # fmt: skip
def test_a_processor_without_8_bit_products_is_said(monkeypatch, instructions, state, said):
    facts = {"cpu": "A processor", "cores": 2, "instructions": instructions}
    monkeypatch.setattr(checks.environment, "describe", lambda: facts)
    monkeypatch.setattr(checks.environment, "instructions", lambda: instructions)
    found = one(checks.processor())
    assert (found.name, found.state) == ("processor", state)
    assert said in found.text and bool(found.fix) == (state == "warning")


@pytest.mark.parametrize("name", ["tensorrt_rtx_cu12", "tensorrt-rtx", "TensorRT"])
def test_an_installed_tensorrt_is_found_however_its_wheel_is_named(monkeypatch, name):
    wheel = SimpleNamespace(metadata={"Name": name})
    monkeypatch.setattr(checks.metadata, "distributions", lambda: [wheel])
    monkeypatch.setattr(checks, "version", lambda _: "1.7.1")
    monkeypatch.setattr(checks.engines, "installed", lambda _: False)
    found = one(checks.tensorrt())
    assert found.state == "ok" and "1.7.1" in found.text
    assert ("(RTX)" in found.text) == ("rtx" in name)


def test_engines_of_either_library(monkeypatch):
    from sdxl.config.engines import Flavor
    from sdxl.core.gpu import Gpu

    def line(flavor, *device):
        found = Gpu(*device, 24 << 30, "580.1") if device else None
        monkeypatch.setattr(checks, "find_gpu", lambda: (found, "no driver"))
        monkeypatch.setattr(checks.importlib, "import_module", lambda name: name)
        return checks._engines(flavor)

    assert "runs none: no driver" in line(Flavor.rtx).text
    assert line(Flavor.rtx, "RTX 4090", (8, 9)).text == "builds and runs on RTX 4090, sm89"
    assert "H100 (sm90) is no target" in line(Flavor.rtx, "H100", (9, 0)).text
    assert line(Flavor.tensorrt).state == "warning"
    assert line(Flavor.tensorrt, "H100", (9, 0)).state == "ok"


def test_what_is_missing_exits_with_1(monkeypatch, capsys: pytest.CaptureFixture):
    def gone(name: str):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(checks.importlib, "import_module", gone)
    assert command.main([]) == 1
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    missing = {c["name"]: c["fix"] for c in summary["checks"] if c["state"] == "missing"}
    assert set(missing) == {"LoadGen", "torch"}
    assert all(fix.startswith("python -m pip install") for fix in missing.values())


def test_a_check_that_breaks_is_a_warning(monkeypatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(checks, "disk", lambda: [][0])
    command.main([])
    assert "not checked: IndexError" in capsys.readouterr().out


def test_packages_against_the_tested_set(tmp_path: Path):
    pins = tmp_path / "constraints.txt"
    pins.write_text("# tested\nnumpy==0.0.1\npillow==" + str(checks.version("pillow")) + "\n")
    found = one(checks.packages(pins))
    assert found.state == "warning"
    assert "1 of 2 differ" in found.text
    assert "numpy" in found.text


def test_store_by_size_and_by_checksum(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SDXL_STORE", str(tmp_path / "store"))
    catalogue = tmp_path / "download.yaml"
    catalogue.write_text(
        "targets:\n  thing:\n    what: a thing\n    licence: none\n    use: it\n    offline: copy\n"
        "    files:\n      - {path: thing/a.bin, bytes: 3, sha256: "
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad}\n"
    )
    found = one(checks.downloads(catalogue=catalogue))
    assert (found.state, found.fix) == ("warning", "python -m sdxl download thing")
    file = tmp_path / "store" / "thing" / "a.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"abc")
    assert "sizes agree" in one(checks.downloads(catalogue=catalogue)).text
    assert "checksums agree" in one(checks.downloads(True, catalogue)).text
    file.write_bytes(b"abd")
    assert one(checks.downloads(catalogue=catalogue)).state == "ok"
    assert "sha256" in one(checks.downloads(True, catalogue)).text
    file.write_bytes(b"ab")
    assert "2 bytes in place of 3" in one(checks.downloads(catalogue=catalogue)).text


def test_mlflow_database(tmp_path: Path, empty_database: Path):
    path = tmp_path / "mlflow.db"
    assert "made by the first run" in one(mlflow_store(f"sqlite:///{path}")).text
    path.write_text("no database at all, but long enough to be read as one" * 20)
    broken = one(mlflow_store(f"sqlite:///{path}"))
    assert broken.state == "warning" and broken.fix.startswith(f"mv {path} ")
    shutil.copy(empty_database, path)
    with sqlite3.connect(path) as opened:
        opened.execute("INSERT INTO runs (run_uuid, status) VALUES ('a', 'RUNNING')")
    opened.close()
    found = one(mlflow_store(f"sqlite:///{path}"))
    assert (found.state, "1 runs, 1 of them unfinished" in found.text) == ("ok", True)


@pytest.fixture
def server():
    """MLflow's search for experiments, for `user:secret` only."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            login = base64.b64encode(b"user:secret").decode()
            known = self.headers.get("Authorization") == f"Basic {login}"
            there = self.path == "/api/2.0/mlflow/experiments/search"
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b'{"experiments": []}' if known else b"who are you?"
            self.send_response((200 if known else 401) if there else 404)
            self.send_header("Content-Type", "application/json" if known else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    made = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made.server_address[1]
    made.shutdown()
    made.server_close()


def test_mlflow_server_and_no_credentials_in_sight(server: int):
    found = one(mlflow_store(f"http://user:secret@127.0.0.1:{server}"))
    assert found.state == "ok"
    dead = one(mlflow_store("http://user:secret@127.0.0.1:1/"))
    assert dead.state == "warning"
    base = one(mlflow_store("postgresql+psycopg2://user:secret@127.0.0.1:1/mlflow"))
    assert base.state == "warning"
    assert "secret" not in f"{found} {dead} {base}"
    assert "refuses" in one(mlflow_store("file:./mlruns")).text


def test_a_login_is_tried(server: int, monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    address = f"http://127.0.0.1:{server}"
    for uri in (address, address.replace("//", "//user:wrong@")):
        found = one(mlflow_store(uri))
        assert found.state == "warning" and "refuses the login" in found.text
        assert "MLFLOW_TRACKING_PASSWORD" in found.fix and "wrong" not in found.text
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert one(mlflow_store(address)).state == "ok"


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch):
    from sdxl.run.doctor import mlflow_store as module

    monkeypatch.setattr(module, "TIMEOUT_S", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        began = time.monotonic()
        found = one(mlflow_store(f"http://127.0.0.1:{deaf.getsockname()[1]}"))
    assert found.state == "warning" and "cannot be asked" in found.text
    assert time.monotonic() - began < 60, "a slow machine imports MLflow meanwhile"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"


def test_a_database_whose_driver_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    found = one(mlflow_store("postgresql+psycopg2://user:secret@127.0.0.1:1/mlflow"))
    assert found.state == "warning" and "psycopg2" in found.text and "secret" not in found.text
    assert found.fix == "python -m pip install -e '.[postgres]'"


def test_gpus_are_listed_and_a_taken_one_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", driver(["H100", "L4"]))
    lines = [check for check in checks.gpu() if check.name == "GPU"]
    assert [check.text for check in lines] == [
        "0: H100, 80.0 of 80.0 GiB free, driver 580.1",
        "1: L4, 80.0 of 80.0 GiB free, driver 580.1",
    ]
    assert {check.state for check in lines} == {"ok"}
    monkeypatch.setitem(sys.modules, "pynvml", driver(["H100"], free=30))
    found = next(checks.gpu())
    assert (found.state, found.fix) == ("warning", "nvidia-smi")
    assert "30.0 of 80.0 GiB free" in found.text and "another process" in found.text
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = next(checks.gpu())
    assert (found.state, found.fix) == ("warning", "python -m pip install nvidia-ml-py")
