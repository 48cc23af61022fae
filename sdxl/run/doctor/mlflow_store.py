"""Can MLflow's store take a run? A login is tried, nothing is written, no credentials are shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sdxl.config import schema
from sdxl.core.disk import existing
from sdxl.core.errors import SdxlError
from sdxl.core.secrets import hide
from sdxl.report.mlflow import database, process
from sdxl.report.mlflow.client import reason, resolve_uri
from sdxl.run.doctor.checks import Check

TIMEOUT_S = 3
PATIENCE = {"postgresql": "connect_timeout", "mysql": "connect_timeout", "mssql": "timeout"}
"""What each database's driver calls the seconds that a login may take."""
NAME = "MLflow"
LATER = "tracking=off, and later: python -m sdxl mlflow upload RECORD"
LOGIN = "MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=... python run.py"


def mlflow_store(uri: str | None = None) -> Iterator[Check]:
    """The tracking address: configuration's default, or MLFLOW_TRACKING_URI."""
    uri = uri or resolve_uri(schema.Tracking("mlflow"))
    kind = urlsplit(uri).scheme.partition("+")[0]
    if path := database.file_of(uri):
        yield _sqlite(path)
    elif kind in ("http", "https"):
        yield _server(uri)
    elif kind in PATIENCE:
        yield _database(uri, PATIENCE[kind])
    elif kind in ("", "file"):
        yield Check(NAME, "warning", f"{hide(uri)}: MLflow 3 refuses folders of files as a store",
                    "mlflow migrate-filestore, or unset MLFLOW_TRACKING_URI")  # fmt: skip
    else:
        yield Check(NAME, "warning", f"{hide(uri)}: not a kind that can be checked")


def _sqlite(path: Path) -> Check:
    place = existing(path.parent)
    if not os.access(place, os.W_OK | os.X_OK):
        return Check(NAME, "warning", f"{place} cannot be written", LATER)
    if not path.is_file():
        return Check(NAME, "ok", f"{path} is made by the first run")
    if not os.access(path, os.W_OK):
        return Check(NAME, "warning", f"{path} cannot be written", f"chmod u+w {path}")
    if path.stat().st_size and (broken := database.problem_of(path)):
        problem = broken.problems[0]
        got = f" ({problem.got})" if problem.got else ""
        return Check(NAME, "warning", problem.what + got, problem.fix or LATER)
    runs, unfinished = database.runs(path) if path.stat().st_size else (0, 0)
    note = f", {unfinished} of them unfinished" if unfinished else ""
    return Check(NAME, "ok", f"{path}: {runs} runs{note}")


def _server(uri: str) -> Check:
    shown = hide(uri)
    try:
        process.ask("search", uri, 2 * TIMEOUT_S, experiment="", patience_s=TIMEOUT_S)
    except SdxlError as error:
        said = error.problems[0].what
        if getattr(error, "code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return Check(NAME, "warning", f"{shown} refuses the login: {said}", LOGIN)
        return Check(NAME, "warning", f"{shown} cannot be asked: {said}", LATER)
    return Check(NAME, "ok", f"{shown} answers")


def _database(uri: str, patience: str) -> Check:
    shown = hide(uri)
    try:
        import sqlalchemy  # MLflow's own way in; its store would make the tables at once

        engine = sqlalchemy.create_engine(uri, connect_args={patience: TIMEOUT_S})
        with engine.connect() as opened:
            if not sqlalchemy.inspect(opened).has_table("runs"):
                return Check(NAME, "ok", f"{shown}: its tables are made by the first run")
            runs = opened.execute(sqlalchemy.text("SELECT count(*) FROM runs")).scalar()
    except ModuleNotFoundError as error:
        fix = "python -m pip install -e '.[postgres]'" if error.name == "psycopg2" else LATER
        return Check(NAME, "warning", f"{shown}: no module {error.name}", fix)
    except Exception as error:  # the driver's own kinds, wrapped or not
        said = reason(getattr(error, "orig", None) or error)
        return Check(NAME, "warning", f"{shown} cannot be used: {said}", LATER)
    return Check(NAME, "ok", f"{shown}: {runs} runs")
