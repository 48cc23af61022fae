"""Can MLflow's store take a run? A login is tried, nothing is written, no credentials are shown."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sdxl.config import schema
from sdxl.core.records import without_credentials
from sdxl.report.mlflow.client import ask, reason, resolve_uri
from sdxl.run.doctor.checks import Check
from sdxl.run.doctor.preflight import existing

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
    if kind == "sqlite":
        yield _sqlite(Path(unquote(uri.partition(":///")[2])))
    elif kind in ("http", "https"):
        yield _server(uri)
    elif kind in PATIENCE:
        yield _database(uri, PATIENCE[kind])
    elif kind in ("", "file"):
        yield Check(NAME, "warning", f"{uri}: MLflow 3 refuses folders of files as a store",
                    "mlflow migrate-filestore, or unset MLFLOW_TRACKING_URI")  # fmt: skip
    else:
        yield Check(NAME, "warning", f"{without_credentials(uri)}: not a kind that can be checked")


def _sqlite(path: Path) -> Check:
    place = existing(path.parent)
    if not os.access(place, os.W_OK | os.X_OK):
        return Check(NAME, "warning", f"{place} cannot be written", LATER)
    if not path.is_file():
        return Check(NAME, "ok", f"{path} is made by the first run")
    if not os.access(path, os.W_OK):
        return Check(NAME, "warning", f"{path} cannot be written", f"chmod u+w {path}")
    try:
        opened = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=TIMEOUT_S)
        try:
            runs = opened.execute("SELECT count(*) FROM runs").fetchone()[0]
            stale = opened.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()
        finally:
            opened.close()
    except sqlite3.DatabaseError as error:
        return Check(NAME, "warning", f"{path} is no MLflow database: {error}",
                     f"mv {path} {path}.broken")  # fmt: skip
    note = f", {stale[0]} of them unfinished" if stale[0] else ""
    return Check(NAME, "ok", f"{path}: {runs} runs{note}")


def _server(uri: str) -> Check:
    shown = without_credentials(uri)
    try:
        ask(uri, TIMEOUT_S)
    except Exception as error:  # MLflow's own kinds, and those of the library below it
        said = reason(error, schema.Tracking("mlflow", uri=uri))
        if getattr(error, "error_code", "") in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return Check(NAME, "warning", f"{shown} refuses the login: {said}", LOGIN)
        return Check(NAME, "warning", f"{shown} cannot be asked: {said}", LATER)
    return Check(NAME, "ok", f"{shown} answers")


def _database(uri: str, patience: str) -> Check:
    shown = without_credentials(uri)
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
        said = reason(getattr(error, "orig", None) or error, schema.Tracking("mlflow", uri=uri))
        return Check(NAME, "warning", f"{shown} cannot be used: {said}", LATER)
    return Check(NAME, "ok", f"{shown}: {runs} runs")
