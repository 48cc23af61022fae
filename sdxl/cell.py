"""One cell of a sweep: measure it beside its unquantized twin, write the record, track it.

The cells of one command share what they have in common: a twin is measured once, and a cell that
can only repeat another (alpha at level 1) is skipped and says which.
"""

from __future__ import annotations

import copy
import shlex
import signal
import traceback
from pathlib import Path
from typing import Any

from sdxl import isolate, records, schema
from sdxl.cli import Outcome
from sdxl.config import QUANT_KEYS
from sdxl.errors import FAILED, INVALID, OK, SdxlError, one_line, show
from sdxl.measure import measure
from sdxl.report import table
from sdxl.schema import Config, Format
from sdxl.types import Record

EXIT_CODES = {"ok": OK, "invalid": INVALID, "skipped": OK}

_measured: dict[str, Path] = {}
"""Finished measurements of this process: key -> record.json."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after the record was written; `outcome` is the JSON line."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("interrupted")
        self.outcome = outcome


def run(config: Config, out_dir: Path) -> Outcome:
    """Measure `config`; every way it can end leaves a record, written before MLflow hears of it."""
    if config.plan:
        from sdxl.plan import show_plan

        return show_plan(config)
    signal.signal(signal.SIGTERM, _interrupt)
    record = records.new(config)
    equal = _measured.get(record.key)
    if equal:
        return _skip(config, out_dir, record, equal)
    quantized = config.quant.format is not Format.none
    if not (quantized and config.quality.twin):
        return _one(config, out_dir, record, None)
    twin = _twin_of(config)
    twin_record = records.new(twin)
    if twin_record.key not in _measured:
        twin_record.command = _twin_command(record.command)
        outcome = _one(twin, out_dir / "twin", twin_record, None)
        if outcome["exit_code"] not in (OK, INVALID):
            outcome["reason"] = f"the unquantized twin: {outcome['reason']}"
            return outcome
    return _one(config, out_dir, record, _measured[twin_record.key])


def _one(config: Config, folder: Path, record: Record, twin: Path | None) -> Outcome:
    """Measure, judge against the twin, write, show, track."""
    exit_code = FAILED
    error: BaseException | None = None
    try:
        measure(config, folder, record)
        exit_code = EXIT_CODES[record.status]
        if twin:
            _compare(record, folder, twin)
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
    except Exception as found:  # ours to mend, but the record comes first
        traceback.print_exc()
        exit_code = FAILED
        record.status, record.reason = "failed", f"{type(found).__name__}: {found}"
        record.environment["traceback"] = traceback.format_exc()
    outcome = _finish(config, folder, record, exit_code, quiet=isinstance(error, KeyboardInterrupt))
    if isinstance(error, KeyboardInterrupt):
        raise Interrupted(outcome)
    return outcome


def _finish(
    config: Config, folder: Path, record: Record, exit_code: int, quiet: bool = False
) -> Outcome:
    """Record first, then the table, then MLflow; returns the outcome."""
    path: Path | None = None
    try:
        path = records.write(record, folder)
    except SdxlError as error:  # a full disk: the figures are still shown
        show(error)
        exit_code = error.exit_code
    tracked: dict[str, Any] = {}
    if not quiet:
        table.show(record, str(folder))
    if path and exit_code in (OK, INVALID):
        _measured.setdefault(record.key, path)
    if path and not quiet and config.tracking.enabled and exit_code in (OK, INVALID, FAILED):
        from sdxl import tracking

        tracked = tracking.log(path, config.tracking)
        if tracked["mlflow_run"]:
            print(f"MLflow run {tracked['mlflow_run']}; to look: make ui")
    figures = ("images_per_second", "metric", "value", "speed_up")
    return {
        "status": record.status,
        "reason": record.reason or None,
        "record": str(path) if path else None,
        **{name: record.performance.get(name) for name in figures},
        "psnr_db": record.quality.get("twin", {}).get("psnr_db"),
        "comparable": record.comparable,
        **tracked,
        "command": record.command,
        "exit_code": exit_code,
    }


def _skip(config: Config, folder: Path, record: Record, equal: Path) -> Outcome:
    """A record of a cell that could only repeat another one."""
    other = records.read(equal)
    record.status, record.reason = "skipped", f"the same work as {equal.parent.name}"
    record.performance = {"equal_to": str(equal)}
    record.quality, record.artifacts = other.quality, other.artifacts
    outcome = _finish(config, folder, record, OK)
    figures = ("images_per_second", "metric", "value", "speed_up")
    return {**outcome, **{name: other.performance.get(name) for name in figures}}


def _compare(record: Record, folder: Path, twin_path: Path) -> None:
    """Speed and pictures beside the unquantized twin's."""
    from sdxl.images import load
    from sdxl.quality.twin import compare

    twin = records.read(twin_path)
    theirs = {image["index"]: image for image in twin.images}
    pairs = [(theirs[image["index"]], image) for image in record.images if image["index"] in theirs]
    found = compare(
        [load(twin_path.parent / one["file"]) for one, _ in pairs],
        [load(folder / other["file"]) for _, other in pairs],
    )
    record.quality["twin"] = {"record": str(twin_path), **found}
    ours, base = (p.get("images_per_second") for p in (record.performance, twin.performance))
    if ours and base:
        record.performance["twin_images_per_second"] = base
        record.performance["speed_up"] = ours / base


def _twin_of(config: Config) -> Config:
    """The same configuration without quantization."""
    twin = copy.deepcopy(config)
    twin.quant = schema.Quant("none")
    for name in QUANT_KEYS:
        setattr(twin, name, None)
    return twin


def _twin_command(command: str) -> str:
    words = shlex.split(command)
    kept = [w for w in words if w.split("=")[0].split(".")[0] not in ("quant", *QUANT_KEYS)]
    return shlex.join([*kept, "quant=none"])


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
