"""Records into MLflow; the only file that imports it. A record is logged whole, or kept for later.

python -m sdxl.tracking upload RECORD...
python -m sdxl.tracking ui
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdxl import records, schema
from sdxl.config import ROOT
from sdxl.errors import FAILED, OK, USER, UserError, show
from sdxl.types import Record

RUN_STATUS = {"ok": "FINISHED", "invalid": "FINISHED", "skipped": "FINISHED"}
PARAMS_A_BATCH = 100
LONGEST_PARAM = 6000
TWIN = ("psnr_db", "psnr_min_db", "ssim", "ssim_min", "max_deviation")
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


def log(record_path: Path, tracking: schema.Tracking) -> dict[str, Any]:
    """Log one record; on any failure warn, name the line that uploads it later, and go on."""
    try:
        return {"mlflow_run": upload(record_path, tracking)}
    except Exception as error:  # a dead server must not cost a measurement
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = reason.replace(records.credentials(resolve_uri(tracking)), "")
        print(
            f"warning: MLflow did not take the record: {reason[:300]}\n"
            f"  it is safe in {record_path}; later type\n"
            f"  python -m sdxl.tracking upload {record_path}",
            file=sys.stderr,
        )
        return {"mlflow_run": None}


def upload(record_path: Path, tracking: schema.Tracking) -> str:
    """Log one record and what lies beside it; returns the run id. Logging twice finds the first."""
    uri = resolve_uri(tracking)
    record = records.read(record_path)
    with _alone(uri):
        client = _client(uri)
        experiment = _experiment(client, tracking.experiment, uri)
        for run in client.search_runs([experiment], f"tags.record = '{record.id}'"):
            if run.data.tags.get("whole") == "true":
                return run.info.run_id
            client.delete_run(run.info.run_id)  # an upload that broke off
        run = client.create_run(experiment, tags=_tags(record), run_name=_name(record))
        run_id = run.info.run_id
        status = "FAILED"
        try:
            _log_numbers(client, run_id, record)
            _log_files(client, run_id, record, record_path.parent)
            client.set_tag(run_id, "whole", "true")
            status = RUN_STATUS.get(record.status, "FAILED")
        finally:
            client.set_terminated(run_id, status)
    return run_id


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
        return found.experiment_id
    place = None  # a server decides for itself
    if uri.startswith(SQLITE):
        # MLflow's default would be ./mlruns of whatever folder we run in: beside the database.
        database = Path(uri.removeprefix(SQLITE)).resolve()
        place = (database.parent / "mlruns" / name).as_uri()
    return client.create_experiment(name, artifact_location=place)


def _name(record: Record) -> str:
    config = record.config
    words = [config["model"]["name"], config["backend"]["name"], config["precision"]["unet"]]
    if config["quant"]["format"] != "none":
        words.append(f"{config['quant']['format']} l{config['quant']['level']:g}")
    return " ".join([*words, config["scenario"]["name"]])


def _tags(record: Record) -> dict[str, str]:
    config, git = record.config, record.environment.get("git", {})
    return {
        "record": record.id,
        "key": record.key,
        "started": record.started,
        "status": record.status,
        "reason": record.reason[:5000],
        "comparable": str(record.comparable).lower(),
        "model": config["model"]["name"],
        "backend": config["backend"]["name"],
        "quant": config["quant"]["format"],
        "scenario": config["scenario"]["name"],
        "mode": config["mode"],
        "git_commit": str(git.get("commit")),
        "git_dirty": str(git.get("dirty")).lower(),
        "command": record.command[:5000],
    }


def _log_numbers(client: Any, run_id: str, record: Record) -> None:
    from mlflow.entities import Metric, Param

    params = [Param(k, str(v)[:LONGEST_PARAM]) for k, v in _flat(record.config).items()]
    for start in range(0, len(params), PARAMS_A_BATCH):
        client.log_batch(run_id, params=params[start : start + PARAMS_A_BATCH])
    time_ms = _milliseconds(record.started)
    client.log_batch(
        run_id, metrics=[Metric(k, v, time_ms, 0) for k, v in _metrics(record).items()]
    )


def _metrics(record: Record) -> dict[str, float]:
    """Key figures under stable names; no NaN or Inf, which MLflow would store as numbers."""
    found = record.performance
    numbers: dict[str, Any] = {
        "images_per_second": found.get("images_per_second"),
        "tflops": found.get("tflops"),
        "speed_up": found.get("speed_up"),
        **{f"twin_{n}": v for n, v in record.quality.get("twin", {}).items() if n in TWIN},
        "valid": float(record.status == "ok"),
        **{f"latency_{name}_ms": v for name, v in (found.get("latency_ms") or {}).items()},
        **{name.replace("_bytes", "_gib"): v / 2**30 for name, v in record.resources.items()},
        **record.durations,
    }
    if found.get("metric"):
        numbers[found["metric"]] = found["value"]
    finite = {k: float(v) for k, v in numbers.items() if isinstance(v, int | float)}
    return {k: v for k, v in finite.items() if v == v and abs(v) != float("inf")}


def _log_files(client: Any, run_id: str, record: Record, folder: Path) -> None:
    import numpy as np
    from PIL import Image

    files = [
        ("record.json", None),
        ("worker.log", None),
        ("images.png", None),
        (".hydra/config.yaml", "hydra"),
        (".hydra/overrides.yaml", "hydra"),
        ("loadgen/mlperf_log_summary.txt", "loadgen"),
        ("loadgen/mlperf_log_detail.txt", "loadgen"),
    ]
    for name, place in files:
        if (folder / name).is_file():
            client.log_artifact(run_id, str(folder / name), place)
    client.log_dict(run_id, record.config, "config.yaml")
    client.log_dict(run_id, record.environment, "environment.json")
    if rows := record.quality.get("layer_errors"):
        columns = {name: [row.get(name) for row in rows] for name in rows[0]}
        client.log_table(run_id, columns, "layer_errors.json")
    for image in record.images[:8]:
        path = folder / image["file"]
        if path.is_file():
            with Image.open(path) as picture:
                pixels = np.asarray(picture)
            key = f"prompt_{image['index']:02d}"
            client.log_image(run_id, pixels, key=key, step=0, synchronous=True)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    return {
        k: v for name, child in node.items() for k, v in _flat(child, f"{prefix}{name}.").items()
    }


def _milliseconds(started: str) -> int:
    import calendar
    import time

    return calendar.timegm(time.strptime(started, "%Y-%m-%dT%H:%M:%SZ")) * 1000


def ui() -> int:
    """Serve MLflow's pages for this machine only, on a free port, until Ctrl-C."""
    import socket
    import subprocess

    uri = resolve_uri(schema.Tracking("mlflow"))
    with _alone(uri):
        _client(uri).search_experiments(max_results=1)  # creates or upgrades the database
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


def main(words: list[str]) -> int:
    """`upload RECORD...` or `ui`; `upload` prints one JSON line."""
    import argparse

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
    tracking = schema.Tracking("mlflow", True, chosen.uri, chosen.experiment)
    runs, code = {}, OK
    for path in chosen.records:
        path = path / "record.json" if path.is_dir() else path
        if not path.is_file():
            show(UserError("there is no such record", str(path), "a record.json or its folder"))
            code = code or USER
            continue
        run = log(path.resolve(), tracking)["mlflow_run"]
        runs[str(path)] = run
        code = code if run else FAILED
    status = "ok" if code == OK else "failed"
    print(json.dumps({"status": status, "runs": runs, "exit_code": code}))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
