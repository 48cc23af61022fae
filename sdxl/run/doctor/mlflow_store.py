"""Can MLflow's store take a run? Asked without importing MLflow; credentials are never shown."""

from __future__ import annotations

import http.client
import os
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sdxl.config import schema
from sdxl.core.records import without_credentials
from sdxl.report.mlflow.client import resolve_uri
from sdxl.run.doctor.checks import Check
from sdxl.run.doctor.preflight import existing

TIMEOUT_S = 3.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
NAME = "MLflow"
LATER = "tracking=off, and later: python -m sdxl mlflow upload RECORD"


def mlflow_store(uri: str | None = None) -> Iterator[Check]:
    """The tracking address: configuration's default, or MLFLOW_TRACKING_URI."""
    uri = uri or resolve_uri(schema.Tracking("mlflow"))
    kind = urlsplit(uri).scheme.partition("+")[0]
    if kind == "sqlite":
        yield _sqlite(Path(unquote(uri.partition(":///")[2])))
    elif kind in ("http", "https"):
        yield _server(uri)
    elif kind in PORTS:
        yield _database(uri, PORTS[kind])
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
    request = urllib.request.Request(f"{shown.rstrip('/')}/health")  # noqa: S310 http(s) only
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return Check(NAME, "ok", f"{shown} answers ({answer.status})")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Check(NAME, "ok", f"{shown} answers and asks for credentials ({error.code})")
        return Check(NAME, "warning", f"{shown} answers {error.code}", LATER)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return Check(NAME, "warning", f"{shown} cannot be reached: {reason}", LATER)


def _database(uri: str, port: int) -> Check:
    shown = without_credentials(uri)
    try:
        parts = urlsplit(uri)
        place = (parts.hostname or "localhost", parts.port or port)
        with socket.create_connection(place, timeout=TIMEOUT_S):
            return Check(NAME, "ok", f"{shown}: the port answers; the login was not tried")
    except (OSError, ValueError) as error:
        return Check(NAME, "warning", f"{shown} cannot be reached: {error}", LATER)
