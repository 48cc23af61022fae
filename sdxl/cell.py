"""One cell: measure it beside its unquantized twin, write the record, track it.

The cells of a sweep share what they have in common, also when they run in several processes: a
twin is measured once, and whoever wants what another process is measuring waits for its record.
"""

from __future__ import annotations

import copy
import os
import shlex
import shutil
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdxl import isolate, ledger, records, schema, shared
from sdxl.cli import Outcome
from sdxl.config import QUANT_KEYS
from sdxl.errors import FAILED, INVALID, OK, SdxlError, one_line, show
from sdxl.measure import measure
from sdxl.report import table
from sdxl.schema import Config, Format
from sdxl.shared import Shared
from sdxl.types import Record

EXIT_CODES = {"ok": OK, "invalid": INVALID, "skipped": OK}


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
    if threading.current_thread() is threading.main_thread():  # a launcher may have others
        signal.signal(signal.SIGTERM, _interrupt)
    record = records.new(config)
    sweep = shared.of_cell(out_dir)
    twin: Path | None = None
    if config.quant.format is not Format.none and config.quality.twin:
        twin, failure = _twin(config, out_dir, record.command, sweep)
        if failure:
            return failure
    with _turn(record.key, config, sweep) as found:
        if found:
            return take_over(out_dir, *found)
        return _one(config, out_dir, record, twin, sweep)


def twin_of(config: Config) -> Config:
    """The same configuration without quantization."""
    twin = copy.deepcopy(config)
    twin.quant = schema.Quant("none")
    for name in QUANT_KEYS:
        setattr(twin, name, None)
    return twin


@contextmanager
def _turn(key: str, config: Config, sweep: Shared | None) -> Iterator[tuple[Path, Record] | None]:
    """The record that stands for a measurement; None: it is this process's turn to make one."""
    policy = ledger.policy_of(config, multirun=sweep is not None)
    since = sweep.started if sweep else ""
    if found := ledger.recall(key, policy, since):
        yield found
    elif sweep:
        with ledger.turn(key):
            yield ledger.recall(key, policy, since)
    else:
        yield None


def _twin(
    config: Config, out_dir: Path, command: str, sweep: Shared | None
) -> tuple[Path | None, Outcome | None]:
    """The twin's record, measured now unless the sweep (or one before) did; or why not."""
    twin = twin_of(config)
    record = records.new(twin)
    words = shlex.split(command)
    kept = [w for w in words if w.split("=")[0].split(".")[0] not in ("quant", *QUANT_KEYS)]
    record.command = shlex.join([*kept, "quant=none"])
    with _turn(record.key, config, sweep) as found:
        if found:
            return found[0], None
        outcome = _one(twin, out_dir / "twin", record, None, sweep)
    if outcome["exit_code"] in (OK, INVALID):
        return Path(outcome["record"]), None
    return None, {**outcome, "reason": f"the unquantized twin: {outcome['reason']}"}


def _one(
    config: Config, folder: Path, record: Record, twin: Path | None, sweep: Shared | None
) -> Outcome:
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
    interrupted = isinstance(error, KeyboardInterrupt)
    outcome = _finish(config, folder, record, exit_code, sweep, interrupted)
    if interrupted:
        raise Interrupted(outcome)
    return outcome


def _finish(
    config: Config,
    folder: Path,
    record: Record,
    exit_code: int,
    sweep: Shared | None,
    interrupted: bool = False,
) -> Outcome:
    """Record first, then the table, then MLflow; returns the outcome."""
    path: Path | None = None
    try:
        path = records.write(record, folder)
        if not interrupted and record.status != "skipped":
            ledger.remember(record, path)
    except (SdxlError, OSError) as error:  # a full disk: the figures are still shown
        show(error if isinstance(error, SdxlError) else SdxlError(f"the ledger: {error}"))
        exit_code = FAILED
    if not interrupted and not sweep:
        table.show(record, str(folder))
    tracked: dict[str, Any] = {}
    if path and not interrupted and config.tracking.enabled and exit_code != 2:
        from sdxl import tracking

        tracked = tracking.log(path, config.tracking, sweep.mlflow_parent if sweep else None)
        if tracked["mlflow_run"] and not sweep:
            print(f"MLflow run {tracked['mlflow_run']}; to look: make ui")
    return {**outcome_of(record, path), **tracked, "exit_code": exit_code}


def outcome_of(record: Record, path: Path | None) -> Outcome:
    """The JSON line of a record."""
    figures = ("images_per_second", "metric", "value", "speed_up")
    return {
        "status": record.status,
        "reason": record.reason or None,
        "record": str(path) if path else None,
        **{name: record.performance.get(name) for name in figures},
        "psnr_db": record.quality.get("twin", {}).get("psnr_db"),
        "comparable": record.comparable,
        "command": record.command,
        "exit_code": EXIT_CODES.get(record.status, FAILED),
    }


def take_over(folder: Path, path: Path, record: Record) -> Outcome:
    """The cell as another sweep left it: the same record, its files linked into this folder."""
    if path.parent.resolve() != folder.resolve():
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("images", "images.png", "loadgen"):
            _link(path.parent / part, folder / part)
        shutil.copyfile(path, folder / "record.json")
    outcome = outcome_of(record, folder / "record.json")
    return {**outcome, "cached": f"measured {record.started}, rerun=all to measure again"}


def _link(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for each in source.iterdir():
            _link(each, target / each.name)
    elif source.is_file() and not target.exists():
        try:
            os.link(source, target)
        except OSError:  # another disk
            shutil.copyfile(source, target)


def skip(config: Config, folder: Path, record: Record, equal: Path, number: int) -> Outcome:
    """A record of a cell that could only repeat cell `number`, whose record is `equal`."""
    other = records.read(equal)
    record.status, record.reason = "skipped", f"the same work as {number}"
    record.performance = {"equal_to": str(equal)}
    record.quality, record.artifacts = other.quality, other.artifacts
    outcome = _finish(config, folder, record, OK, shared.of_cell(folder))
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


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
