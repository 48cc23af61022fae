"""One measurement: prepare what it needs, run it in a watched child, fill the record."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdxl.bench import logs
from sdxl.bench.mlperf import verdict
from sdxl.bench.probe import Probe, strangers
from sdxl.config import schema
from sdxl.config.load import backend_modules, key, quality_modules
from sdxl.config.schema import Config, Foreign, Mode, Rules
from sdxl.core import devices, environment, isolate
from sdxl.core.errors import ConfigError, SdxlError
from sdxl.core.progress import Progress
from sdxl.core.types import Record
from sdxl.model import prompts
from sdxl.run import artifacts, identity, ledger, outcomes, peak, worker
from sdxl.run.doctor.preflight import preflight

SHEET_IMAGES = 8

Report = Callable[[dict[str, Any]], None]
"""Takes a worker's progress reports."""


def measure(config: Config, folder: Path, record: Record) -> None:
    """Run LoadGen on `config`, `repeat` times, and put the median run into `record`.

    `performance.repeats` lists the images/s of all runs in their order. What another measurement
    left in `folder` is cleared away. Raises the `SdxlError` of whatever went wrong; what was known
    by then stays in the record.
    """
    outcomes.clear(folder)
    if config.find_peak:
        peak.search(config, folder, record, _once)
        return
    if config.repeat == 1:
        _once(config, folder, record)
        return
    runs = []
    for number in range(config.repeat):
        place = folder / f"repeat-{number}"
        attempt = copy.deepcopy(record)
        try:
            _once(config, place, attempt)
        finally:
            vars(record).update(vars(attempt))
        runs.append((attempt.performance["images_per_second"], number, place, attempt))
    rates = [rate for rate, *_ in runs]
    _, _, place, median = sorted(runs, key=lambda each: each[:2])[(len(runs) - 1) // 2]
    outcomes.move(place, folder)
    vars(record).update(vars(median))
    record.performance["repeats"] = rates
    record.performance["spread"] = (max(rates) - min(rates)) / record.performance[
        "images_per_second"
    ]


def _once(config: Config, folder: Path, record: Record) -> None:
    """One run of LoadGen into `record`."""
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    if problems := preflight(config, folder):
        raise ConfigError(problems)
    # The user's mistakes cost seconds here, not a model's loading time in the child.
    chosen = prompts.load(config.dataset, config.limit, config.seed)
    record.environment = dict(environment.describe())  # the cached one serves other cells too
    title = f"{config.model.name} {config.backend.name} {config.scenario.name}"
    with (
        Progress(title) as progress,
        devices.reserve(progress.say, config.backend.devices) as env,
        Probe(devices.used(env, config.backend.devices)) as probe,
    ):

        def report(message: dict[str, Any]) -> None:
            probe.phase(message.get("phase", ""))
            progress.report(message)

        run = functools.partial(child, config, folder, report, env)
        result = run(worker.measure, _artifacts(config, record, run), folder)
    probe.write(folder / "probe.jsonl")
    record.durations |= {**result["durations"], "total_s": round(time.perf_counter() - began, 3)}
    record.resources = {**result["memory"], "probe": probe.summary()}
    record.images = result["images"]
    if result["scores"]:
        record.quality["scores"] = result["scores"]
    record.environment = {**record.environment, **result["environment"]}
    record.performance = _performance(config, result, logs.read(folder / "loadgen"))
    _judge(config, record)
    reasons = _incomparable(config, len(chosen))
    if deaths := record.performance["generator"].get("deaths"):
        reasons.append(f"{len(deaths)} workers died and were replaced")
    record.comparable, record.comparable_reason = not reasons, "; ".join(reasons)
    if record.images:
        from sdxl.model.images import sheet

        shown = record.images[:SHEET_IMAGES]
        paths = [folder / image["file"] for image in shown]
        sheet(paths, [image["caption"] for image in shown], folder / "images.png")
    _alone(config, record)


def _alone(config: Config, record: Record) -> None:
    """Note who else used the machine; with `foreign=error` that is a failure."""
    device = str(record.performance["generator"].get("device", ""))
    found = strangers(record.resources["probe"], device.startswith("cuda"))
    if found:
        record.resources["probe"]["warnings"] = found
    if found and config.foreign is Foreign.error:
        raise SdxlError(
            "the figures are not this program's alone", "; ".join(found),
            "a machine to itself", "foreign=warn",
        )  # fmt: skip


def _judge(config: Config, record: Record) -> None:
    """The verdict, beside the newest run of the same work in the other mode, if there is one."""
    pair = identity.pair_key(config)
    made = [artifact["key"] for artifact in record.artifacts]
    record.performance["artifact_key"] = key(identity.artifact_key(config), made)
    record.performance["pair_key"] = pair
    other = Mode.performance if config.mode is Mode.accuracy else Mode.accuracy
    partner = ledger.partner(pair, other)
    found = verdict.gates(record, partner[1] if partner else None)
    record.verdict = [gate.row() for gate in found]
    record.reason = verdict.invalid_because(found)
    record.status = "invalid" if record.reason else "ok"


def _artifacts(config: Config, record: Record, run: artifacts.Child) -> dict[str, Path]:
    """What the backend loads beside the weights, made in children of its own if missing."""
    chain = artifacts.build(config, run)
    record.durations |= chain.durations
    record.artifacts += [piece.manifest for piece in chain.pieces]
    if chain.layer_errors:
        record.quality["layer_errors"] = chain.layer_errors
    if chain.parity:
        record.quality["parity"] = chain.parity
    return chain.loads


def child(
    config: Config, folder: Path, report: Report, env: dict[str, str], work: Any, *args: Any
) -> Any:
    """Run `work(link, config, *args)` in a fresh process, its log in the cell's folder."""
    scorer = quality_modules().get(config.quality.name)
    torch_needed = backend_modules()[config.backend.name].NEEDS_TORCH or scorer is not None
    return isolate.run(
        work,
        config,
        *args,
        log=folder / "worker.log",
        limit_s=config.scenario.startup_s,
        on_report=report,
        timeout_s=config.timeout_s,
        env=env,
        # A local diffusers must be the first that the child imports: no preloading then.
        preload=torch_needed and not config.model.diffusers_src,
    )


def _performance(config: Config, result: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Figures from LoadGen's own log; in accuracy mode there are none to report."""
    same = ("batch_size", "prompts", "counts", "warm_up", "stage_ms", "settings", "generator")
    performance: dict[str, Any] = {
        "scenario": config.scenario.name,
        "mode": config.mode.value,
        **{name: result[name] for name in same},
        "loadgen": found,
    }
    if result["profile"]:
        performance["profile"] = result["profile"]
    if config.mode is Mode.accuracy:
        return performance
    rate, metric = _figure(config, found["detail"])
    performance["images_per_second"] = rate
    performance["metric"], performance["value"], performance["unit"] = metric
    performance["latency_ms"] = {
        label: found["detail"][f"result_{name}_ns"] / 1e6
        for label, name in (
            ("mean", "mean_latency"),
            ("p50", "50.00_percentile_latency"),
            ("p90", "90.00_percentile_latency"),
            ("p99", "99.00_percentile_latency"),
            ("max", "max_latency"),
        )
    }
    performance["latency_histogram"] = result["latency_histogram"]
    if result["image_flop"]:
        performance["tflop_per_image"] = result["image_flop"] / 1e12
        performance["tflops"] = rate * result["image_flop"] / 1e12
    if limit := result["roofline"]:
        share = rate / limit["images_per_second"]
        performance["roofline"] = {**limit, "share": share}
    return performance


def _figure(config: Config, detail: dict[str, Any]) -> tuple[float, tuple[str, float | None, str]]:
    """images/s, and the scenario's own (metric, value, unit) under LoadGen's names."""
    match config.scenario.name:
        case "Offline":
            rate = float(detail["result_samples_per_second"])
            return rate, ("samples_per_second", rate, "images/s")
        case "Server":
            rate = float(detail["result_completed_samples_per_sec"])
            return rate, ("completed_samples_per_second", rate, "images/s")
        case "SingleStream":
            name, samples = "early_stopping_latency_ss", 1
        case _:
            assert isinstance(config.scenario, schema.MultiStream)
            name, samples = "early_stopping_latency_ms", config.scenario.samples_per_query
    rate = samples * 1e9 / detail["result_mean_latency_ns"]
    # LoadGen writes 0 where early stopping has too few queries for an estimate.
    return rate, (name, detail[name] / 1e6 or None, "ms")


def _incomparable(config: Config, prompt_count: int) -> list[str]:
    """Why the figures may not stand beside published MLPerf results; empty if they may."""
    reasons = []
    model, scenario = config.model, config.scenario
    if not backend_modules()[config.backend.name].NEEDS_TORCH:
        reasons.append(f"backend={config.backend.name} draws without a model")
    if not isinstance(model, schema.SdxlModel):
        kind = "is a miniature" if isinstance(model, schema.ScenesModel) else "has random weights"
        reasons.append(f"model={model.name} {kind}")
    elif model.path != schema.SDXL_BASE:
        reasons.append(f"weights from {model.path}: are they SDXL base 1.0's?")
    if model.unet:
        reasons.append(f"another UNet: {model.unet}")
    if config.rules is Rules.open:
        reasons.append("rules=open")
    if model.latents or config.seed:
        reasons.append("an initial latent of its own")
    if isinstance(scenario, schema.Server) and (
        scenario.target_latency_ms > 20_000 or scenario.target_latency_percentile < 0.99
    ):
        reasons.append("a Server limit other than 99 % within 20 s")
    if config.dataset.name != "coco" or config.dataset.shuffle or prompt_count < 5000:
        reasons.append(f"{prompt_count} prompts of {config.dataset.name}, not 5,000 of coco")
    if config.mode is Mode.performance and config.scenario.min_duration_ms < 600_000:
        reasons.append(f"{config.scenario.min_duration_ms / 1e3:g} s minimum duration, not 600 s")
    return reasons
