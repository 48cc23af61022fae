"""Commands around MLflow.

python -m sdxl.tracking upload RECORD...
python -m sdxl.tracking ui
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
from pathlib import Path

from sdxl import schema, tracking
from sdxl.config import ROOT
from sdxl.errors import FAILED, OK, USER, UserError, show


def main(words: list[str]) -> int:
    """`upload RECORD...` (prints one JSON line) or `ui`."""
    parser = argparse.ArgumentParser(prog="python -m sdxl.tracking")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ui", help="MLflow's pages on a free port of 127.0.0.1")
    uploading = commands.add_parser("upload", help="log records that MLflow did not get")
    uploading.add_argument("records", nargs="+", type=Path, metavar="RECORD")
    uploading.add_argument("--uri", help="in place of MLFLOW_TRACKING_URI or mlflow.db")
    uploading.add_argument("--experiment", default=schema.Tracking.experiment)
    chosen = parser.parse_args(words)
    if chosen.command == "ui":
        return ui()
    return upload(chosen.records, schema.Tracking("mlflow", True, chosen.uri, chosen.experiment))


def upload(paths: list[Path], target: schema.Tracking) -> int:
    """Log each record (or the one in each folder); the exit code of the worst."""
    runs, code = {}, OK
    for given in paths:
        path = given / "record.json" if given.is_dir() else given
        if not path.is_file():
            show(UserError("there is no such record", str(path), "a record.json or its folder"))
            code = code or USER
            continue
        run = tracking.log(path.resolve(), target)["mlflow_run"]
        runs[str(path)] = run
        code = code if run else FAILED
    status = "ok" if code == OK else "failed"
    print(json.dumps({"status": status, "runs": runs, "exit_code": code}))
    return code


def ui() -> int:
    """Serve MLflow's pages for this machine only, on a free port, until Ctrl-C."""
    mlflow = schema.Tracking("mlflow")
    with tracking.opened(mlflow):  # creates or upgrades the database, under its lock
        uri = tracking.resolve_uri(mlflow)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    print(f"MLflow on http://127.0.0.1:{port}   (Ctrl-C ends it)", flush=True)
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", uri]
    words += ["--default-artifact-root", (ROOT / "mlruns").as_uri()]
    try:
        return subprocess.run([sys.executable, "-m", "mlflow", *words], check=False).returncode
    except KeyboardInterrupt:
        return OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
