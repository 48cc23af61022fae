"""What MLflow gets of a record: parameters, metrics, tags, files; names stay stable."""

from __future__ import annotations

import calendar
import getpass
import tempfile
import time
from pathlib import Path
from typing import Any

from sdxl.bench.probe import series
from sdxl.core.record import Record
from sdxl.report import work
from sdxl.report.cell import Cell
from sdxl.report.plots import latencies

PARAMS_A_BATCH = 100
METRICS_A_BATCH = 1000
LONGEST_PARAM = 6000
LONGEST_TAG = 5000
IMAGES = 8
SPEED = ("images_per_second", "tflops", "peak_qps", "speed_up", "joules_per_image",
         "price_per_thousand")  # fmt: skip
STARTED = "%Y-%m-%dT%H:%M:%SZ"
"""The form of a record's `started`."""
BASELINE = ("psnr_db", "psnr_min_db", "ssim", "ssim_min", "max_deviation",
        "perceptual_scenes")  # fmt: skip


def name(record: Record) -> str:
    """The run's name, by meaning."""
    config = record.config
    words = [config["model"]["name"], config["backend"]["name"], config["precision"]["unet"]]
    quant = config["quant"]
    if quant["format"] != "none":
        words.append(f"{quant['format']} l{quant['level']:g} a{quant['alpha']:g}")
    words += [short.shortcut] if (short := work.of(record)) else []
    return " ".join([*words, config["scenario"]["name"]])


def tags(record: Record) -> dict[str, str]:
    """What runs are filtered by."""
    config, git = record.config, record.environment.git
    return {
        "record": record.id,
        "key": record.key,
        "started": record.started,
        "status": record.status,
        "reason": record.reason[:LONGEST_TAG],
        "comparable": str(record.comparable).lower(),
        "model": config["model"]["name"],
        "backend": config["backend"]["name"],
        "precision": config["precision"]["unet"],
        "quant": config["quant"]["format"],
        **({"shortcut": short.shortcut} if (short := work.of(record)) else {}),
        "scenario": config["scenario"]["name"],
        "mode": config["mode"],
        "git_commit": str(git.commit),
        "git_dirty": str(git.dirty).lower(),
        "command": record.command[:LONGEST_TAG],
        "simulated": str(Cell(Path(), record).simulated).lower(),
        **origin(_program(record.command)),
        **({"mlflow.source.git.commit": git.commit} if git.commit else {}),
        **{f"artifact.{made['kind']}": made["key"] for made in record.artifacts},
        **{f"artifact.{made['kind']}.parents": " ".join(made["parents"])
           for made in record.artifacts},
    }  # fmt: skip


def origin(program: str) -> dict[str, str]:
    """MLflow's own tags for where a run comes from: the program and who is logged in."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        user = "unknown"
    return {"mlflow.source.name": program, "mlflow.source.type": "LOCAL", "mlflow.user": user}


def _program(command: str) -> str:
    """`run.py` of `python run.py limit=8`."""
    words = command.split()
    return next((word for word in words if word.endswith(".py")), words[0] if words else "run.py")


def times(record: Record) -> tuple[int, int]:
    """When the measurement began and ended, in milliseconds since 1970: MLflow's run lasts as long.

    An upload takes a moment, and may come days later.
    """
    began = calendar.timegm(time.strptime(record.started, STARTED)) * 1000
    parts = {name: seconds for name, seconds in record.durations.items() if name != "total_s"}
    return began, began + round(1e3 * record.durations.get("total_s", sum(parts.values())))


def log_numbers(client: Any, run_id: str, record: Record) -> None:
    """Resolved settings as parameters, key figures as metrics."""
    from mlflow.entities import Metric, Param

    params = [Param(k, str(v)[:LONGEST_PARAM]) for k, v in _flat(record.config).items()]
    for start in range(0, len(params), PARAMS_A_BATCH):
        client.log_batch(run_id, params=params[start : start + PARAMS_A_BATCH])
    _, time_ms = times(record)
    found = [Metric(name, value, time_ms, 0) for name, value in metrics(record).items()]
    client.log_batch(run_id, metrics=found)


def metrics(record: Record) -> dict[str, float]:
    """Key figures under stable names; no NaN or Inf, which MLflow would store as numbers."""
    found, cell, short = record.performance, Cell(Path(), record), work.of(record)
    numbers: dict[str, Any] = {
        "images_per_second": found.images_per_second,
        "tflops": found.tflops,
        "peak_qps": found.peak.qps,
        "speed_up": found.speed_up,
        "psnr_db": cell.psnr,
        "joules_per_image": cell.joules,
        "price_per_thousand": cell.price,
        **{f"baseline_{name}": getattr(record.quality.baseline, name) for name in BASELINE},
        **record.quality.scores.metrics,
        "valid": float(record.status == "ok"),
        **{f"latency_{name}_ms": v for name, v in found.latency_ms.items()},
        **(
            {
                "unet_forwards": short.forwards,
                "unet_rows": short.rows,
                "tflop_per_image": short.tflop,
                "share_of_closed_tflop": short.share,
            }
            if short
            else {}
        ),
        **_resources(record.resources.to_json()),
        **record.durations,
    }
    if found.metric:
        numbers[found.metric] = found.value
    if cell.simulated:
        numbers = {f"simulated_{k}" if _of_speed(k, found.metric) else k: v
                   for k, v in numbers.items()}  # fmt: skip
    finite = {k: float(v) for k, v in numbers.items() if isinstance(v, int | float)}
    return {k: v for k, v in finite.items() if v == v and abs(v) != float("inf")}


def _of_speed(name: str, metric: str | None) -> bool:
    """Does a metric say how fast it was? Such ones of simulated arithmetic get names of their own.

    MLflow's charts and filters would rank them beside real ones.
    """
    return name == metric or name.startswith(("latency_", *SPEED))


def _resources(found: dict[str, Any]) -> dict[str, Any]:
    """Memory in GiB, and what the probe saw, each GPU's numbers under its own name."""
    probe = found.get("probe", {})
    flat = {**found, **{f"probe_{name}": value for name, value in probe.items()}}
    for gpu in probe.get("gpus", []):
        flat |= {f"gpu_{gpu['index']}_{name}": value for name, value in gpu.items()}
    numbers = {name: v for name, v in flat.items() if isinstance(v, int | float)}
    return {
        name.replace("_bytes", "_gib"): v / 2**30 if name.endswith("_bytes") else v
        for name, v in numbers.items()
    }


def log_series(client: Any, run_id: str, record: Record, folder: Path) -> None:
    """The probe's samples as time series, where MLflow shows a system's metrics."""
    from mlflow.entities import Metric

    path = folder / "probe.jsonl"
    if not path.is_file():
        return
    start_ms, _ = times(record)
    found = [
        Metric(f"system/{name}", value, start_ms + round(at_s * 1e3), step)
        for step, (at_s, numbers) in enumerate(series(path))
        for name, value in numbers.items()
    ]
    for start in range(0, len(found), METRICS_A_BATCH):
        client.log_batch(run_id, metrics=found[start : start + METRICS_A_BATCH])


def log_files(client: Any, run_id: str, record: Record, folder: Path) -> None:
    """Record, logs, configuration, environment, pictures under fixed keys."""
    import numpy as np
    from PIL import Image

    files = [
        ("record.json", None),
        ("worker.log", None),
        ("probe.jsonl", None),
        ("images.png", None),
        ("baseline.png", None),
        (".hydra/config.yaml", "hydra"),
        (".hydra/overrides.yaml", "hydra"),
        ("loadgen/mlperf_log_summary.txt", "loadgen"),
        ("loadgen/mlperf_log_detail.txt", "loadgen"),
    ]
    for file, place in files:
        if (folder / file).is_file():
            client.log_artifact(run_id, str(folder / file), place)
    client.log_dict(run_id, record.config, "config.yaml")
    client.log_dict(run_id, record.environment.to_json(), "environment.json")
    if rows := [row.to_json() for row in record.quality.layer_errors]:
        columns = {column: [row.get(column) for row in rows] for column in rows[0]}
        client.log_table(run_id, columns, "layer_errors.json")
    if record.performance.latency_histogram:
        with tempfile.TemporaryDirectory() as made:
            path = latencies(record.performance, name(record), Path(made) / "latency.png")
            client.log_artifact(run_id, str(path), "plots")
    for image in record.images[:IMAGES]:
        path = folder / image.file
        if path.is_file():
            with Image.open(path) as picture:
                pixels = np.asarray(picture)
            key = f"prompt_{image.index:02d}"
            client.log_image(run_id, pixels, key=key, step=0, synchronous=True)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    leaves = (_flat(child, f"{prefix}{key}.") for key, child in node.items())
    return {key: value for leaf in leaves for key, value in leaf.items()}
