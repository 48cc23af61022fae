"""MLflow on PostgreSQL, where it is installed: a sweep, its cells, nothing lost between them."""

import importlib.util
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from sdxl.config import schema
from sdxl.core.command import Outcome
from sdxl.report.mlflow import client as tracking
from sdxl.report.mlflow import sweeps
from tests import sweep_of_records

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
INITDB = str(BINARIES[-1]) if BINARIES else shutil.which("initdb")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INITDB, reason="no PostgreSQL here"),
    pytest.mark.skipif(not importlib.util.find_spec("psycopg2"), reason="no psycopg2 here"),
]


@pytest.fixture
def database(tmp_path):
    """The address of an empty database on a PostgreSQL of this test's own."""
    place = Path(shutil.copytree(tmp_path, f"/tmp/sdxl-pg-{os.getpid()}"))
    user = None
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        user = "nobody"
        shutil.chown(place, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(program, *words):
        line = [str(Path(INITDB).with_name(program)), *words]
        subprocess.run(line, check=True, capture_output=True, timeout=60, user=user, cwd=place)

    call("initdb", "-D", "data", "-U", "mlflow", "-A", "trust", "-N")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {place} -c fsync=off"
    try:
        call("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-D", "data", "-m", "immediate", "stop")
        shutil.rmtree(place)


def test_the_doctor_logs_in_and_makes_nothing(database):
    """Beside the tests of the database, whose server it needs."""
    from sdxl.run.doctor.mlflow_store import mlflow_store

    (empty,) = mlflow_store(database)
    assert empty.state == "ok" and "tables are made by the first run" in empty.text
    assert [check.text for check in mlflow_store(database)] == [empty.text], "and still are not"
    (stranger,) = mlflow_store(database.replace("mlflow@", "nobody:s3cret@"))
    assert stranger.state == "warning" and "s3cret" not in stranger.text
    assert "does not exist" in stranger.text
    tracking._client(database).search_experiments()
    (found,) = mlflow_store(database)
    assert (found.state, found.text.endswith(": 0 runs")) == ("ok", True)


def test_a_sweep_and_its_cells(database, tmp_path):
    settings = schema.Tracking("mlflow", True, database, "trial")
    client = tracking._client(database)
    client.create_experiment("trial", artifact_location=(tmp_path / "artifacts").as_uri())
    folder = sweep_of_records.sweep(tmp_path / "sweep")
    parent = sweeps.begin("level x alpha", settings, folder)
    for number in range(3):
        tracking.upload(folder / str(number) / "record.json", settings, parent.run_id)
    parent.end([Outcome()] * 3, interrupted=False)
    experiment = client.get_experiment_by_name("trial").experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    assert len(children) == 3
    assert {run.info.status for run in children} == {"FINISHED"}
    assert client.get_run(parent.run_id).data.metrics["cells_ok"] == 3
    assert (tmp_path / "artifacts" / parent.run_id / "artifacts/plots/pareto-1.png").is_file()
