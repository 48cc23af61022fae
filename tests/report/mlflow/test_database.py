"""MLflow's SQLite file: whole whenever it is there, and a broken one is named with what helps."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from sdxl.config import schema
from sdxl.core.errors import SdxlError
from sdxl.report.mlflow import client, database
from sdxl.run.doctor.mlflow_store import mlflow_store
from tests.conftest import ROOT
from tests.report.mlflow.mlflow_store import runs

KILLED = """
import os, signal, sys, time
from pathlib import Path
from sdxl.report.mlflow import client, database
import mlflow.store.tracking.sqlalchemy_store

def make(path):
    with database.ready(f"sqlite:///{path}"):
        pass

folder, moments = Path(sys.argv[1]), int(sys.argv[2])
client._prepare()
began = time.monotonic()
make(folder / "first.db")
whole_s = time.monotonic() - began
for moment in range(moments):
    child = os.fork()
    if not child:
        make(folder / "new.db")
        os._exit(0)
    time.sleep(whole_s * 1.1 * moment / moments)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if (folder / "new.db").exists():
        assert database.problem_of(folder / "new.db") is None, moment
        (folder / "new.db").unlink()
make(folder / "new.db")
assert database.problem_of(folder / "new.db") is None
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_no_broken_database(tmp_path):
    line = [sys.executable, "-c", KILLED, str(tmp_path), "8"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["first.db", "first.db.lock", "new.db", "new.db.lock"], "rests are cleared away"


@pytest.fixture
def broken(tmp_path):
    """What MLflow leaves when it is killed in its first second: tables, and no version of them."""
    import sqlalchemy
    from mlflow.store.tracking.dbmodels.initial_models import Base

    path = tmp_path / "half.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return path


def test_a_broken_database_is_named_with_the_line_that_helps(broken, measured, capsys):
    tracking = schema.Tracking("mlflow", True, f"sqlite:///{broken}")
    (check,) = mlflow_store(tracking.uri)
    assert check.state == "warning" and "not whole" in check.text
    assert client.log(measured / "record.json", tracking) == {"mlflow_run": None}
    err = capsys.readouterr().err
    assert "not whole" in err and f"fix: {check.fix}" in err and "mlflow upload" in err
    subprocess.run(check.fix, shell=True, check=True)
    run = client.log(measured / "record.json", tracking)["mlflow_run"]
    assert [each.info.run_id for each in runs(client._client(tracking.uri), "sdxl")] == [run]


@pytest.mark.parametrize(
    ("version", "run", "fix"),
    [
        ("451aebb31d03", False, "mv "),
        ("451aebb31d03", True, "db upgrade "),
        ("ffffffffffff", True, "pip install --upgrade mlflow"),
    ],
    ids=["old and empty", "old with runs", "newer"],
)
def test_other_schema_versions(empty, tmp_path, version, run, fix):
    path = Path(shutil.copy(empty, tmp_path / "my runs.db"))
    with sqlite3.connect(path) as opened:
        opened.execute("UPDATE alembic_version SET version_num = ?", [version])
        if run:
            opened.execute("INSERT INTO runs (run_uuid, status) VALUES ('a', 'FINISHED')")
    opened.close()
    (problem,) = database.problem_of(path).problems
    assert fix in problem.fix and version in problem.got
    with pytest.raises(SdxlError), database.ready(f"sqlite:///{path}"):
        pass


def test_the_installed_schema_is_the_one_that_is_made(empty):
    assert database.problem_of(empty) is None and database.runs(empty) == (0, 0)


def test_a_file_that_is_locked_or_empty_is_not_called_broken(empty, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "PATIENCE_S", 0)
    path = Path(shutil.copy(empty, tmp_path / "a.db"))
    with sqlite3.connect(path) as opened:
        opened.execute("BEGIN EXCLUSIVE")
        (problem,) = database.problem_of(path).problems
    opened.close()
    assert "locked" in problem.what and not problem.fix
    path.write_bytes(b"")
    with database.ready(f"sqlite:///{path}"):
        assert database.problem_of(path) is None


NAMES = ["/Users/me@example.com/sdxl", "../../escape", "..", ".hidden", "a/b", "ü %2F", "x" * 300]


@pytest.mark.parametrize("name", NAMES, ids=[name[:20] for name in NAMES])
def test_artifacts_stay_beside_the_database_whatever_the_experiment(store, tmp_path, name):
    before = set(tmp_path.parent.iterdir())
    with client.opened(schema.Tracking("mlflow", True, store.uri, name)) as (opened, experiment):
        run = opened.create_run(experiment)
        opened.log_text(run.info.run_id, "here", "note.txt")
    (note,) = tmp_path.rglob("note.txt")
    assert note.relative_to(tmp_path).parts[0] == "mlruns" and len(note.parts) == len(
        (tmp_path / "mlruns" / "folder" / run.info.run_id / "artifacts" / "note.txt").parts
    )
    assert set(tmp_path.parent.iterdir()) == before


def test_other_experiments_have_other_folders():
    assert len({client.folder_of(name) for name in [*NAMES, "sdxl", "x" * 301]}) == len(NAMES) + 2
    assert client.folder_of("sdxl") == "sdxl"


@pytest.mark.slow
def test_a_deleted_experiment_is_restored_by_the_line_that_is_named(store, measured, capsys):
    experiment = store.client.create_experiment("trial")
    store.client.delete_experiment(experiment)
    assert client.log(measured / "record.json", store.settings) == {"mlflow_run": None}
    (fix,) = (line for line in capsys.readouterr().err.splitlines() if "fix: " in line)
    line = fix.partition("fix: ")[2].replace("python", sys.executable, 1)
    subprocess.run(line, shell=True, check=True, capture_output=True, timeout=120)
    assert client.log(measured / "record.json", store.settings)["mlflow_run"]
