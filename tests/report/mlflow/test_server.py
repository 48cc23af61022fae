"""A real MLflow server: what it missed is uploaded later, and it learns no secrets."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from sdxl.config import schema
from sdxl.core.command import Outcome
from sdxl.report.mlflow import client as tracking
from sdxl.report.mlflow import sweeps
from sdxl.report.mlflow.command import main as commands
from tests import sweep_of_records
from tests.report.mlflow.mlflow_store import files, runs


@pytest.mark.slow
def test_a_record_that_a_server_missed_is_uploaded_later(measured, empty, tmp_path, capfd):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = shutil.copytree(measured, tmp_path / "cell")
    uri = f"http://someone:s3cret@127.0.0.1:{port}"

    def run_upload():
        code = commands(["upload", str(folder), "--uri", uri])
        out, err = capfd.readouterr()
        assert "s3cret" not in out + err
        return code, json.loads(out.splitlines()[-1])

    code, said = run_upload()
    assert code == 1 and said["status"] == "failed"
    shutil.copy(empty, tmp_path / "server.db")
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
         "--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--workers", "1",
         "--artifacts-destination", str(tmp_path / "artifacts")],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # as `sdxl mlflow ui`
    )  # fmt: skip
    try:
        until = time.monotonic() + 100
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < until and server.poll() is None
                time.sleep(0.3)
        code, first = run_upload()
        assert code == 0 and first["status"] == "ok"
        assert run_upload() == (0, first), "once more changes nothing"
        client = tracking._client(f"http://127.0.0.1:{port}")
        (run,) = runs(client, "sdxl")
        assert list(first["runs"].values()) == [run.info.run_id]
        assert "loadgen/mlperf_log_detail.txt" in files(client, run.info.run_id)
        settings = schema.Tracking("mlflow", True, uri, "sweeps")
        sweep = sweep_of_records.sweep(tmp_path / "sweep")
        parent = sweeps.begin("a sweep", settings, sweep)
        child = tracking.upload(folder / "record.json", settings, parent.run_id)
        parent.end([Outcome()], interrupted=False)
        assert client.get_run(child).data.tags["mlflow.parentRunId"] == parent.run_id
        assert "plots/pareto-1.png" in files(client, parent.run_id)
    finally:
        os.killpg(server.pid, 9)
        server.wait(20)
    for path in [tmp_path / "server.db", *(tmp_path / "artifacts").rglob("*")]:
        assert path.is_dir() or b"s3cret" not in path.read_bytes(), path
