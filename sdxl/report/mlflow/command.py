"""Commands around MLflow.

python -m sdxl mlflow upload RECORD...
python -m sdxl mlflow ui
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from sdxl.config import schema
from sdxl.core import secrets, terminal
from sdxl.core.command import Parser, ended
from sdxl.core.errors import FAILED, OK, USER, SdxlError, UserError, show
from sdxl.core.paths import ROOT
from sdxl.report.mlflow import client, database


def main(words: list[str]) -> int:
    """`upload RECORD...` or `ui`; the last line on standard output is one JSON object."""
    return ended(lambda: _run(words))


def _run(words: list[str]) -> dict[str, Any]:
    parser = Parser(prog="python -m sdxl mlflow")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ui", help="MLflow's pages on a free port of 127.0.0.1")
    uploading = commands.add_parser("upload", help="log records that MLflow did not get")
    uploading.add_argument("records", nargs="+", type=Path, metavar="RECORD")
    uploading.add_argument("--uri", help="in place of MLFLOW_TRACKING_URI or mlflow.db")
    uploading.add_argument("--experiment", default=schema.Tracking.experiment)
    uploading.add_argument("--parent", metavar="RUN", help="the sweep's run that they belong to")
    uploading.add_argument("--timeout", type=float, default=schema.Tracking.timeout_s,
                           metavar="SECONDS", help="for each record")  # fmt: skip
    chosen = parser.parse_args(words)
    if chosen.command == "ui":
        return ui()
    target = schema.Tracking("mlflow", True, chosen.uri, chosen.experiment, chosen.timeout)
    return upload(chosen.records, target, chosen.parent)


def upload(paths: list[Path], target: schema.Tracking, parent: str | None) -> dict[str, Any]:
    """Log each record (or the one in each folder); the exit code is that of the worst."""
    runs, code = {}, OK
    for given in paths:
        path = given / "record.json" if given.is_dir() else given
        if not path.is_file():
            show(UserError("there is no such record", str(path), "a record.json or its folder"))
            code = code or USER
            continue
        run = client.log(path.resolve(), target, parent)["mlflow_run"]
        runs[str(path)] = run
        code = code if run else FAILED
    return {"status": "ok" if code == OK else "failed", "runs": runs, "exit_code": code}


def ui() -> dict[str, Any]:
    """Serve MLflow's pages for this machine only, on a free port, until Ctrl-C."""
    mlflow = schema.Tracking("mlflow")
    uri = database.absolute(client.resolve_uri(mlflow))
    try:
        client.asked("open", mlflow)
    except SdxlError as error:  # no server, no database, another program's database
        problem = error.problems[0]
        raise SdxlError(
            "MLflow's store cannot be opened",
            f"{secrets.hide(uri)}: {problem.what}",
            "a database, or a server that answers",
            problem.fix or "MLFLOW_TRACKING_URI=sqlite:///FILE python -m sdxl mlflow ui",
        ) from error
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    terminal.tell(f"MLflow on http://127.0.0.1:{port}   (Ctrl-C ends it)")
    words = ["server", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--default-artifact-root", (ROOT / "mlruns").as_uri()]
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # processes for what no run here asks
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # in no list of processes
    }
    line = [sys.executable, "-m", "mlflow", *words]
    try:
        code = subprocess.run(line, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return {}
    if code:
        raise SdxlError("MLflow's server ended", f"exit code {code}")
    return {}
