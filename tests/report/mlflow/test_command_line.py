"""Tracking as a part of `python run.py`: where it goes, and no secrets with it."""

import time

import pytest

from sdxl.config import schema
from sdxl.report.mlflow import client
from tests.report.mlflow.mlflow_store import FAST


@pytest.mark.slow
def test_a_run_is_tracked_from_the_command_line(cli, store):
    done = cli(*FAST, f"tracking.uri={store.uri}", "tracking.experiment=trial")
    assert done.code == 0, done.err
    (run,) = store.runs()
    assert done.json["mlflow_run"] == run.info.run_id and run.info.run_id in done.out
    assert "Traceback" not in done.err and "alembic" not in done.err


@pytest.mark.slow
def test_the_environments_address_is_used_and_the_configurations_wins(cli, store, tmp_path):
    done = cli(*FAST, "tracking.experiment=trial", "tracking=mlflow",
               env={"MLFLOW_TRACKING_URI": store.uri})  # fmt: skip
    assert [run.info.run_id for run in store.runs()] == [done.json["mlflow_run"]]
    assert client.resolve_uri(schema.Tracking("mlflow", uri="sqlite:///x")) == "sqlite:///x"


@pytest.mark.slow
def test_a_dead_server_costs_no_measurement_and_learns_no_secret(cli):
    began = time.monotonic()
    uri = "http://someone:s3cret@127.0.0.1:9"
    done = cli(*FAST, f"tracking.uri={uri}")
    assert time.monotonic() - began < 90
    assert done.code == 0 and done.json["status"] == "ok" and done.json["mlflow_run"] is None
    assert "warning: MLflow did not take the record" in done.err
    assert f"python -m sdxl mlflow upload {done.dir / 'record.json'}" in done.err
    for path in done.dir.rglob("*"):
        assert path.is_dir() or b"s3cret" not in path.read_bytes(), path
    assert "s3cret" not in done.out + done.err
    assert "http://127.0.0.1:9" in done.record["command"]


def test_a_multirun_keeps_no_secret_either(cli):
    uri = "postgresql://someone:s3cret@127.0.0.1:9/db"
    done = cli("-m", *FAST, "seed=1,2", f"tracking.uri='{uri}'")
    assert done.code == 0, done.err
    assert (done.dir / "multirun.yaml").is_file() and len(done.records()) == 2
    assert "s3cret" not in done.err  # on standard output Hydra repeats the words typed
    for path in done.dir.rglob("*"):
        assert path.is_dir() or b"s3cret" not in path.read_bytes(), path
