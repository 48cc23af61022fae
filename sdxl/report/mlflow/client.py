"""Records into MLflow; the only package that imports it.

A record is logged whole, or kept for later. A multirun is one parent run with a child per cell.
`python -m sdxl mlflow` has the commands.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdxl.config import schema
from sdxl.core import records
from sdxl.core.paths import ROOT
from sdxl.report.mlflow import content, lineage

RUN_STATUS = {"ok": "FINISHED", "invalid": "FINISHED", "skipped": "FINISHED"}
MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it reports usage to its makers otherwise
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the address's password
}
SQLITE = "sqlite:///"
DEFAULT_URI = f"{SQLITE}{ROOT / 'mlflow.db'}"


def resolve_uri(tracking: schema.Tracking) -> str:
    """The store's address: configuration, then MLFLOW_TRACKING_URI, then the project's database."""
    return tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def log(record_path: Path, tracking: schema.Tracking, parent: str | None = None) -> dict[str, Any]:
    """Log one record; on any failure warn, name the line that uploads it later, and go on.

    With `parent`, a run id, the run becomes its child.
    """
    try:
        return {"mlflow_run": upload(record_path, tracking, parent)}
    except Exception as error:  # a dead server must not cost a measurement
        print(
            f"warning: MLflow did not take the record: {reason(error, tracking)}\n"
            f"  it is safe in {record_path}; later type\n"
            f"  {_later(record_path, tracking, parent)}",
            file=sys.stderr,
        )
        return {"mlflow_run": None}


def _later(record_path: Path, tracking: schema.Tracking, parent: str | None) -> str:
    """The line that uploads a record to where it should have gone; credentials left out."""
    words = ["python", "-m", "sdxl", "mlflow", "upload", str(record_path)]
    if tracking.uri:
        words += ["--uri", records.without_credentials(tracking.uri)]
    if tracking.experiment != schema.Tracking.experiment:
        words += ["--experiment", tracking.experiment]
    if parent:
        words += ["--parent", parent]
    return shlex.join(words)


def upload(record_path: Path, tracking: schema.Tracking, parent: str | None = None) -> str:
    """Log one record and what lies beside it; returns the run id. Logging twice finds the first."""
    record = records.read(record_path)
    with opened(tracking) as (client, experiment):
        for run in client.search_runs([experiment], f"tags.record = '{record.id}'"):
            if run.data.tags.get("whole") == "true":
                return str(run.info.run_id)
            client.delete_run(run.info.run_id)  # an upload that broke off
        tags = content.tags(record)
        if parent:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(experiment, tags=tags, run_name=content.name(record))
        run_id = str(run.info.run_id)
        status = "FAILED"
        try:
            content.log_numbers(client, run_id, record)
            lineage.log_datasets(client, run_id, record)
            content.log_series(client, run_id, record, record_path.parent)
            content.log_files(client, run_id, record, record_path.parent)
            client.set_tag(run_id, "whole", "true")
            status = RUN_STATUS.get(record.status, "FAILED")
        finally:
            client.set_terminated(run_id, status)
    return run_id


@contextlib.contextmanager
def opened(tracking: schema.Tracking) -> Iterator[tuple[Any, str]]:
    """(client, experiment id) of the tracking store; one writer at a time on a SQLite file."""
    uri = resolve_uri(tracking)
    with _alone(uri):
        client = _client(uri)
        yield client, _experiment(client, tracking.experiment, uri)


def _client(uri: str) -> Any:
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if uri == DEFAULT_URI and not (ROOT / "mlflow.db").exists():
        print("creating mlflow.db", file=sys.stderr)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow.MlflowClient(tracking_uri=uri)


def ask(uri: str, timeout_s: int) -> None:
    """One question to a server, with the login of its address or of MLFLOW_TRACKING_*.

    Raises what MLflow raises, after `timeout_s` at the latest: nothing is tried again.
    """
    short = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {name: os.environ.get(name) for name in short}
    try:
        os.environ.update(short)
        _client(uri).search_experiments(max_results=1)
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One writer at a time for a SQLite file: its first use by two processes corrupts it."""
    if not uri.startswith(SQLITE):
        yield
        return
    from filelock import FileLock

    with FileLock(f"{uri.removeprefix(SQLITE)}.lock"):
        yield


def _experiment(client: Any, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found:
        return str(found.experiment_id)
    place = None  # a server decides for itself
    if uri.startswith(SQLITE):
        # MLflow's default would be ./mlruns of whatever folder we run in: beside the database.
        database = Path(uri.removeprefix(SQLITE)).resolve()
        place = (database.parent / "mlruns" / name).as_uri()
    elif not uri.startswith("http"):  # another database, without a server
        place = (ROOT / "mlruns" / name).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=place))
    except Exception:  # another process was faster
        found = client.get_experiment_by_name(name)
        if not found:
            raise
        return str(found.experiment_id)


def reason(error: Exception, tracking: schema.Tracking) -> str:
    """Why MLflow failed, in one line without credentials."""
    text = str(error).replace(records.credentials(resolve_uri(tracking)), "")
    return text.splitlines()[0][:300] if text else type(error).__name__
