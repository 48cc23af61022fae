"""One measurement: prepare what it needs, run it in a watched child, fill the record."""

from __future__ import annotations

import copy
import functools
import time
from pathlib import Path
from typing import Any

from sdxl.bench import parallel_region
from sdxl.bench.mlperf import verdict
from sdxl.bench.probe import Probe, strangers
from sdxl.config.content_key import key
from sdxl.config.plugins import backend_of
from sdxl.config.schema import Config, Foreign, LoadCurve, Mode
from sdxl.core import environment, gpu_locks
from sdxl.core.errors import ConfigError, SdxlError
from sdxl.core.progress import Progress, Say
from sdxl.core.record import (
    Environment,
    Image,
    LayerError,
    PerPrompt,
    Record,
    Reference,
    Resources,
    Scores,
)
from sdxl.model import prompts
from sdxl.model.images import sheet
from sdxl.quality import reference
from sdxl.run import artifacts, identity, jobs, ledger, outcomes, peak, worker
from sdxl.run.doctor.preflight import preflight
from sdxl.run.figures import incomparable, performance
from sdxl.run.jobs import child
from sdxl.run.result import WorkerResult

SHEET_IMAGES = 8


def measure(config: Config, folder: Path, record: Record, say: Say | None = None) -> None:
    """Run LoadGen on `config`, `repeat` times, and put the median run into `record`.

    `performance.repeats` lists the images/s of all runs in their order. What another measurement
    left in `folder` is cleared away. A run that is INVALID makes the record so. `say` hears how far
    it is. Raises the `SdxlError` of whatever went wrong; what was known by then stays in `record`.
    """
    outcomes.clear(folder)
    if config.find_peak:
        peak.search(config, folder, record, functools.partial(_once, say=say))
        return
    if config.repeat == 1:
        _once(config, folder, record, say)
        return
    runs, begun = [], copy.deepcopy(record)
    for number in range(config.repeat):
        place = folder / f"repeat-{number}"
        attempt = copy.deepcopy(begun)
        try:
            _once(config, place, attempt, say)
        finally:
            vars(record).update(vars(attempt))
        runs.append((attempt.performance.images_per_second or 0.0, number, place, attempt))
    rates = [each for each, *_ in runs]
    rate, _, place, median = sorted(runs, key=lambda each: each[:2])[(len(runs) - 1) // 2]
    outcomes.move(place, folder)
    vars(record).update(vars(median))
    record.performance.repeats = rates
    record.performance.spread = (max(rates) - min(rates)) / rate
    if bad := [(n, each) for _, n, _, each in runs if each.status != "ok"]:
        record.status = "invalid"
        record.reason = "; ".join(f"repetition {n + 1}: {each.reason}" for n, each in bad)


def _once(config: Config, folder: Path, record: Record, say: Say | None) -> None:
    """One run of LoadGen into `record`."""
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    if problems := preflight(config, folder):
        raise ConfigError(problems)
    # The user's mistakes cost seconds here, not a model's loading time in the child.
    chosen = prompts.load(config.dataset, config.limit, config.seed)
    others = record.environment.outside
    here = environment.describe() | ({"outside": others} if others else {})
    record.environment = Environment.from_json(here)
    title = f"{config.model.name} {config.backend.name} {config.scenario.name}"
    with (
        Progress(title, say) as progress,
        gpu_locks.reserve(progress.say, config.backend.devices) as env,
        Probe(gpu_locks.used(env, config.backend.devices)) as probe,
    ):

        def report(message: dict[str, Any]) -> None:
            probe.phase(message.get("phase", ""))
            progress.report(message)

        run = functools.partial(child, config, folder, report, env)
        loads = _artifacts(config, record, run)
        blocks = _reference(config, record, run)
        result: WorkerResult = run(worker.measure, loads, folder, blocks)
    probe.write(folder / "probe.jsonl")
    record.durations |= {**result.durations, "total_s": round(time.perf_counter() - began, 3)}
    on_gpu = str(result.generator.get("device")).startswith("cuda")
    spent = probe.energy(on_gpu, result.counts["done"])
    found = {**result.memory, "energy": spent, "probe": probe.summary()}
    record.resources = Resources.from_json({n: part for n, part in found.items() if part != {}})
    record.images = [*map(Image.from_json, result.images)]
    if result.scores:
        record.quality.scores = Scores.from_json(result.scores)
    if beside := result.beside.get("reference"):
        record.quality.reference = Reference.from_json(
            {**record.quality.reference.to_json(), **beside}
        )
    record.quality.scores.extra = result.beside.get("extra", {})
    record.quality.per_prompt = PerPrompt.from_json(result.beside.get("per_prompt", {}))
    seen = {**record.environment.to_json(), **result.environment}
    record.environment = Environment.from_json(seen)
    record.performance = performance(config, result, folder / "loadgen")
    _judge(config, record)
    reasons = incomparable(config, len(chosen))
    if died := record.performance.generator.died:
        reasons.append(f"{died} workers died and were replaced")
    record.comparable, record.comparable_reason = not reasons, "; ".join(reasons)
    if record.images:
        shown = record.images[:SHEET_IMAGES]
        paths = [folder / image.file for image in shown]
        sheet(paths, [image.caption for image in shown], folder / "images.png")
    if not backend_of(config).remote:  # whose work would look like somebody else's
        _alone(config.foreign, record)


def _alone(foreign: Foreign, record: Record) -> None:
    """Note who else used the machine; with `foreign=error` that is a failure."""
    device = record.performance.generator.device or ""
    on_gpu = device.startswith("cuda")
    found = strangers(record.resources.probe.to_json(), on_gpu)
    if found:
        record.resources.probe.warnings = found
    elif not on_gpu and (host := parallel_region.doubt(record.environment.parallel_region)):
        record.resources.probe.warnings = [host]
    if found and foreign is Foreign.error:
        raise SdxlError(
            "the figures are not this program's alone", "; ".join(found),
            "a machine to itself", "foreign=warn",
        )  # fmt: skip


def _judge(config: Config, record: Record) -> None:
    """The verdict, beside the newest run of the same work in the other mode, if there is one."""
    pair = identity.pair_key(config)
    made = [artifact["key"] for artifact in record.artifacts]
    record.performance.artifact_key = key(identity.artifact_key(config), made)
    record.performance.pair_key = pair
    other = Mode.performance if config.mode is Mode.accuracy else Mode.accuracy
    partner = ledger.partner(pair, other)
    if isinstance(config.scenario, LoadCurve):  # LoadGen had no part in it
        record.status = "ok"
        return
    found = verdict.gates(record, partner[1] if partner else None)
    record.verdict = [gate.row() for gate in found]
    record.reason = verdict.invalid_because(found)
    record.status = "invalid" if record.reason else "ok"


def _reference(config: Config, record: Record, run: artifacts.Child) -> list[str]:
    """Folders of the reference's pictures, drawn now if nobody has; none where there is none."""
    if reason := reference.absent(config):
        record.quality.reference = Reference(absent=reason)
        return []
    began = time.perf_counter()
    found = run(jobs.reference)
    record.durations["reference_s"] = round(time.perf_counter() - began, 3)
    record.quality.reference = Reference(key=found["key"])
    return list(found["blocks"])


def _artifacts(config: Config, record: Record, run: artifacts.Child) -> dict[str, Path]:
    """What the backend loads beside the weights, made in children of its own if missing."""
    chain = artifacts.build(config, run)
    record.durations |= chain.durations
    record.artifacts += [piece.manifest for piece in chain.pieces]
    if chain.layer_errors:
        record.quality.layer_errors = [*map(LayerError.from_json, chain.layer_errors)]
    if chain.parity:
        record.quality.parity = chain.parity
    return chain.loads
