"""Records into MLflow; the only package that imports it.

A record is logged whole, or kept for later. A multirun is one parent run with a child per cell.
`python -m sdxl mlflow` has the commands. `log` and `asked` belong to the command's own process;
what opens a store runs in the helper (`process`), which a deadline ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sdxl.config import schema
from sdxl.core import records, secrets, terminal
from sdxl.core.errors import SdxlError
from sdxl.core.paths import ROOT
from sdxl.report.mlflow import content, database, lineage, process

RUN_STATUS = {"ok": "FINISHED", "skipped": "FINISHED"}
"""Of a record's status; MLflow calls all others FAILED, LoadGen's INVALID with them."""
MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # a busy server may ask for an hour
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it reports usage to its makers otherwise
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the address's password
}
DEFAULT_URI = f"sqlite:///{ROOT / 'mlflow.db'}"
LONGEST_NAME = 200
"""Characters of a folder's name; experiments may have longer ones."""


def resolve_uri(tracking: schema.Tracking) -> str:
    """The store's address: configuration, then MLFLOW_TRACKING_URI, then the project's database."""
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    return secrets.know(secrets.restored(uri))


def log(record_path: Path, tracking: schema.Tracking, parent: str | None = None) -> dict[str, Any]:
    """Log one record; on any failure warn, name the line that uploads it later, and go on.

    With `parent`, a run id, the run becomes its child. Takes `tracking.timeout_s` at most.
    """
    try:
        run = asked("upload", tracking, record_path=str(record_path), parent=parent)
    except SdxlError as error:  # a dead server must not cost a measurement
        later = (
            f"it is safe in {record_path}; later type\n  {_later(record_path, tracking, parent)}"
        )
        warn("MLflow did not take the record", error, later)
        run = None
    return {"mlflow_run": run}


def asked(job: str, tracking: schema.Tracking, **words: Any) -> Any:
    """What a job of the helper returns, within `tracking.timeout_s`; raises `SdxlError`."""
    uri = database.absolute(resolve_uri(tracking))
    if uri == DEFAULT_URI and not (ROOT / "mlflow.db").exists():
        terminal.say("creating mlflow.db")
    return process.ask(job, uri, tracking.timeout_s, experiment=tracking.experiment, **words)


def warn(what: str, error: SdxlError, later: str = "") -> None:
    """One warning: why, the line that helps, and what can be done later."""
    problem = error.problems[0]
    got = f" ({problem.got})" if problem.got else ""
    lines = [f"warning: {what}: {problem.what}{got}", problem.fix and f"fix: {problem.fix}", later]
    terminal.say(secrets.hide("\n  ".join(filter(None, lines))))


def _later(record_path: Path, tracking: schema.Tracking, parent: str | None) -> str:
    """The line that uploads a record to where it should have gone; credentials left out."""
    words = ["python", "-m", "sdxl", "mlflow", "upload", str(record_path)]
    if tracking.uri:
        words += ["--uri", secrets.hide(tracking.uri)]
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
        began_ms, ended_ms = content.times(record)
        run = client.create_run(experiment, began_ms, tags, content.name(record))
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
            client.set_terminated(run_id, status, ended_ms)
    return run_id


@contextlib.contextmanager
def opened(tracking: schema.Tracking) -> Iterator[tuple[Any, str]]:
    """(client, experiment id) of the tracking store; one writer at a time on a SQLite file."""
    uri = resolve_uri(tracking)
    _prepare()
    with database.ready(uri):
        client = _client(uri)
        yield client, _experiment(client, tracking.experiment, uri)


def _prepare() -> None:
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _client(uri: str) -> Any:
    _prepare()
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow.MlflowClient(tracking_uri=uri)


def search(uri: str, timeout_s: int) -> None:
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


def _experiment(client: Any, name: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found and found.lifecycle_stage == "deleted":
        number = found.experiment_id
        shown = shlex.quote(secrets.hide(uri))
        raise SdxlError(
            f"the experiment `{name}` was deleted",
            expected="one that is there, or another tracking.experiment=NAME",
            fix=f"MLFLOW_TRACKING_URI={shown} python -m mlflow experiments restore -x {number}",
        )
    if found:
        return str(found.experiment_id)
    place = None  # a server decides for itself
    if path := database.file_of(uri):
        # MLflow's default would be ./mlruns of whatever folder we run in: beside the database.
        place = (path.parent / "mlruns" / folder_of(name)).as_uri()
    elif not uri.startswith("http"):  # another database, without a server
        place = (ROOT / "mlruns" / folder_of(name)).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=place))
    except Exception:  # another process was faster
        found = client.get_experiment_by_name(name)
        if not found:
            raise
        return str(found.experiment_id)


def folder_of(experiment: str) -> str:
    """A folder's name for an experiment of any name: one level, no way up, not too long."""
    name = quote(experiment, safe=" ")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(experiment.encode()).hexdigest()[:16]}"


def reason(error: Exception) -> str:
    """Why MLflow failed, in one line without credentials."""
    text = secrets.hide(str(error))
    return text.splitlines()[0][:300] if text.strip() else type(error).__name__
