"""One cell from configuration to record: prepare, measure in a child, judge, write, track."""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sdxl import environment, isolate, prompts, schema, worker
from sdxl.bench import logs
from sdxl.cli import Outcome
from sdxl.config import backend_modules, key, plain
from sdxl.errors import FAILED, INVALID, OK, SdxlError, one_line, show
from sdxl.report import table
from sdxl.report.progress import Progress
from sdxl.schema import Config, Mode, Rules
from sdxl.store import disk_error, write_json
from sdxl.types import Record

MEASURE_VERSION = 1
"""Bumped by hand when the sampler or the harness changes what a figure means."""

EXIT_CODES = {"ok": OK, "invalid": INVALID, "skipped": OK}


def run(config: Config, out_dir: Path) -> Outcome:
    """Measure `config`; the record is on disk before anything else hears of it."""
    if config.plan:
        from sdxl.plan import show_plan

        return show_plan(config)
    record = Record(record_key(config), public(config), command_line())
    exit_code = FAILED
    error: BaseException | None = None
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _measure(config, out_dir, record)
        exit_code = EXIT_CODES[record.status]
    except SdxlError as found:
        error, exit_code = found, found.exit_code
        record.status = "timeout" if isinstance(found, isolate.WorkerStalled) else "failed"
        record.reason = one_line(found.problems)
        if trace := getattr(found, "trace", ""):
            record.environment["traceback"] = trace
        show(found)
    except KeyboardInterrupt as found:
        error = found
        record.status, record.reason = "failed", "interrupted"
    record_path = _write(record, out_dir)
    tracked: dict[str, Any] = {}
    if not isinstance(error, KeyboardInterrupt):
        table.show(record, str(out_dir))
        if config.tracking.enabled and exit_code in (OK, INVALID, FAILED):
            from sdxl import tracking

            tracked = tracking.log(record_path, config.tracking)
            if tracked["mlflow_run"]:
                print(f"MLflow run {tracked['mlflow_run']}; to look: make ui")
    outcome = {
        "status": record.status,
        "reason": record.reason or None,
        "record": str(record_path),
        **{name: record.performance.get(name) for name in ("images_per_second", "metric", "value")},
        "comparable": record.comparable,
        **tracked,
        "exit_code": exit_code,
    }
    if isinstance(error, KeyboardInterrupt):
        raise Interrupted(outcome)
    return outcome


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after the record was written; `outcome` is the JSON line."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("interrupted")
        self.outcome = outcome


def record_key(config: Config) -> str:
    """Identity of a measurement: everything that can change its figures."""
    measured = {
        name: value
        for name, value in plain(config).items()
        if name not in ("tracking", "plan", "build")
    }
    return key(measured, MEASURE_VERSION)


def public(config: Config) -> dict[str, Any]:
    """The configuration for records and MLflow, credentials removed from URIs."""
    found = plain(config)
    if uri := found["tracking"]["uri"]:
        found["tracking"]["uri"] = without_credentials(uri)
    return found


def without_credentials(uri: str) -> str:
    """`http://user:secret@host/x` -> `http://host/x`."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def command_line() -> str:
    """The line that reproduces this cell."""
    from hydra.core.hydra_config import HydraConfig

    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else sys.argv[1:]
    safe = [
        f"{name}{sign}{without_credentials(value)}"
        for name, sign, value in (word.partition("=") for word in words)
    ]
    return shlex.join(["python", Path(sys.argv[0]).name, *safe])


def _measure(config: Config, out_dir: Path, record: Record) -> None:
    began = time.perf_counter()
    # The user's mistakes cost seconds here, not a model's loading time in the child.
    chosen = prompts.load(config.dataset, config.limit, config.seed)
    artifacts: dict[str, Path] = {}
    torch_needed = backend_modules()[config.backend.name].NEEDS_TORCH
    record.environment = dict(environment.describe())  # the cached one serves other cells too
    title = f"{config.model.name} {config.backend.name} {config.scenario.name}"
    with Progress(title) as progress:
        result = isolate.run(
            worker.measure,
            config,
            artifacts,
            out_dir,
            log=out_dir / "worker.log",
            limit_s=config.scenario.startup_s,
            on_report=progress.report,
            # A local diffusers must be the first that the child imports: no preloading then.
            preload=torch_needed and not config.model.diffusers_src,
        )
    record.durations = {**result["durations"], "total_s": round(time.perf_counter() - began, 3)}
    record.resources = result["memory"]
    record.images = result["images"]
    record.environment = {**record.environment, **result["environment"]}
    record.performance = _performance(config, result, logs.read(out_dir / "loadgen"))
    valid, reason = logs.verdict(
        record.performance["loadgen"]["detail"], config.mode is Mode.accuracy
    )
    record.status, record.reason = ("ok", "") if valid else ("invalid", reason)
    reasons = _incomparable(config, len(chosen))
    record.comparable, record.comparable_reason = not reasons, "; ".join(reasons)
    if record.images:
        from sdxl.images import sheet

        shown = record.images[:8]
        sheet(
            [out_dir / image["file"] for image in shown],
            [image["caption"] for image in shown],
            out_dir / "images.png",
        )


def _performance(config: Config, result: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Figures from LoadGen's own log; in accuracy mode there are none to report."""
    detail = found["detail"]
    performance: dict[str, Any] = {
        "scenario": config.scenario.name,
        "mode": config.mode.value,
        "batch_size": result["batch_size"],
        "prompts": result["prompts"],
        "counts": result["counts"],
        "warm_up": result["warm_up"],
        "settings": result["settings"],
        "generator": result["generator"],
        "loadgen": found,
    }
    if config.mode is Mode.accuracy:
        return performance
    rate: float
    if config.scenario.name == "Offline":
        rate = detail["result_samples_per_second"]
        metric = ("samples_per_second", rate, "images/s")
    elif config.scenario.name == "Server":
        rate = detail["result_completed_samples_per_sec"]
        metric = ("completed_samples_per_second", rate, "images/s")
    else:
        samples = getattr(config.scenario, "samples_per_query", 1)
        rate = samples * 1e9 / detail["result_mean_latency_ns"]
        name = "early_stopping_latency_" + ("ss" if samples == 1 else "ms")
        if config.scenario.name == "MultiStream":
            name = "early_stopping_latency_ms"
        metric = (name, detail[name] / 1e6, "ms")
    performance["images_per_second"] = rate
    performance["metric"], performance["value"], performance["unit"] = metric
    performance["latency_ms"] = {
        label: detail[f"result_{name}_ns"] / 1e6
        for label, name in (
            ("mean", "mean_latency"),
            ("p50", "50.00_percentile_latency"),
            ("p90", "90.00_percentile_latency"),
            ("p99", "99.00_percentile_latency"),
            ("max", "max_latency"),
        )
    }
    if result["image_flop"]:
        performance["tflop_per_image"] = result["image_flop"] / 1e12
        performance["tflops"] = rate * result["image_flop"] / 1e12
    return performance


def _incomparable(config: Config, prompt_count: int) -> list[str]:
    """Why the figures may not stand beside published MLPerf results; empty if they may."""
    reasons = []
    if not isinstance(config.model, schema.SdxlModel):
        reasons.append(f"model={config.model.name} has random weights")
    if config.rules is Rules.open:
        reasons.append("rules=open")
    if config.dataset.name != "coco" or prompt_count < 5000:
        reasons.append(f"{prompt_count} prompts of {config.dataset.name}, not 5,000 of coco")
    if config.mode is Mode.performance and config.scenario.min_duration_ms < 600_000:
        reasons.append(f"{config.scenario.min_duration_ms / 1e3:g} s minimum duration, not 600 s")
    return reasons


def _write(record: Record, out_dir: Path) -> Path:
    path = out_dir / "record.json"
    try:
        write_json(path, dataclasses.asdict(record))
    except OSError as error:
        raise disk_error(error, out_dir) from error
    return path


def read(path: Path) -> Record:
    """A record from its file."""
    stored = json.loads(path.read_text())
    fields = {field.name for field in dataclasses.fields(Record)}
    return Record(**{name: value for name, value in stored.items() if name in fields})


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
