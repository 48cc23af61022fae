"""One cell: measure it beside its unquantized twin, write the record, track it.

The cells of one command share what they have in common: a twin is measured once, and a cell that
can only repeat another (alpha at level 1) is skipped and says which. In a multirun, a cell that an
earlier one has finished is taken over.
"""

from __future__ import annotations

import copy
import os
import shlex
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdxl import isolate, ledger, records, schema
from sdxl.cli import Outcome
from sdxl.config import QUANT_KEYS
from sdxl.errors import FAILED, INVALID, OK, SdxlError, one_line, show
from sdxl.measure import measure
from sdxl.report import table
from sdxl.schema import Compliance, Config, Format, Mode, Rerun
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
    if equal := _measured.get(record.key):
        return _skip(config, out_dir, record, equal)
    policy = ledger.policy_of(config, records.in_multirun())
    if found := ledger.recall(record.key, policy):
        return _take_over(out_dir, *found)
    if config.compliance:
        return _audit(config, out_dir, record)
    if config.quant.format is Format.none or not config.quality.twin:
        return _one(config, out_dir, record)
    words = _without(record.command, "quant", *QUANT_KEYS)
    command = shlex.join([*words, "quant=none"])
    twin, failure = _other(twin_of(config), out_dir / "twin", command, policy)
    if not twin:
        return {**failure, "reason": f"the unquantized twin: {failure['reason']}"}
    return _one(config, out_dir, record, lambda: _compare(record, out_dir, twin))


def twin_of(config: Config) -> Config:
    """The same configuration without quantization."""
    twin = copy.deepcopy(config)
    twin.quant = schema.Quant("none")
    for name in QUANT_KEYS:
        setattr(twin, name, None)
    return twin


def plain_of(config: Config, mode: Mode) -> Config:
    """The ordinary run of the same work that an audit is judged against."""
    plain = copy.deepcopy(config)
    plain.compliance, plain.mode = None, mode
    if mode is Mode.accuracy:
        plain.quality.keep_images = None
        if isinstance(plain.scenario, schema.Offline):
            plain.scenario.target_qps = plain.scenario.min_query_count = None
    return plain


def _audit(config: Config, out_dir: Path, record: Record) -> Outcome:
    """Run one of MLPerf's audits; the ordinary runs it needs are measured if there are none."""
    from sdxl.bench import compliance, verdict

    test = config.compliance
    assert test
    plain: dict[Mode, Path] = {}
    policy = config.rerun or Rerun.failed
    for mode in (Mode.performance, Mode.accuracy)[: 2 if test is Compliance.test01 else 1]:
        known = ledger.partner(records.pair_key(config), mode) if policy is not Rerun.all else None
        if known and known[1].status == "ok":
            plain[mode] = known[0]
            continue
        words = _without(record.command, "compliance", "mode")
        command = shlex.join([*words, f"mode={mode.value}"])
        found, failure = _other(plain_of(config, mode), out_dir / mode.value, command, policy)
        if not found:
            return {**failure, "reason": f"the {mode.value} run: {failure['reason']}"}
        plain[mode] = found

    def judge() -> None:
        speed, accuracy = plain[Mode.performance], plain.get(Mode.accuracy)
        place = out_dir / "compliance"
        gates = compliance.verify(test, record, out_dir, speed, accuracy, place)
        record.verdict += [gate.row() for gate in gates]
        reasons = [record.reason, verdict.invalid_because(gates)]
        record.reason = "; ".join(filter(None, reasons))
        record.status = "invalid" if record.reason else "ok"
        used = {mode.value: str(path) for mode, path in plain.items()}
        record.performance["compliance"] = {"test": compliance.name_of(test), "against": used}

    return _one(config, out_dir, record, judge)


def _other(
    config: Config, folder: Path, command: str, policy: Rerun
) -> tuple[Path | None, Outcome]:
    """The record of a run that this cell needs, measured now unless there is one; or why not."""
    record = records.new(config)
    if record.key in _measured:
        return _measured[record.key], {}
    if found := ledger.recall(record.key, policy):
        _measured[record.key] = found[0]
        return found[0], {}
    record.command = command
    outcome = _one(config, folder, record)
    if outcome["exit_code"] in (OK, INVALID):
        return Path(outcome["record"]), {}
    return None, outcome


def _without(command: str, *keys: str) -> list[str]:
    """The command's words but those that set one of `keys`."""
    return [w for w in shlex.split(command) if w.split("=")[0].split(".")[0] not in keys]


def _one(
    config: Config, folder: Path, record: Record, judge: Callable[[], None] | None = None
) -> Outcome:
    """Measure, `judge` beside other runs, write, show, track."""
    exit_code = FAILED
    error: BaseException | None = None
    try:
        measure(config, folder, record)
        if judge:
            judge()
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
    except Exception as found:  # ours to mend, but the record comes first
        traceback.print_exc()
        exit_code = FAILED
        record.status, record.reason = "failed", f"{type(found).__name__}: {found}"
        record.environment["traceback"] = traceback.format_exc()
    interrupted = isinstance(error, KeyboardInterrupt)
    outcome = _finish(config, folder, record, exit_code, interrupted)
    if interrupted:
        raise Interrupted(outcome)
    return outcome


def _finish(
    config: Config, folder: Path, record: Record, exit_code: int, interrupted: bool = False
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
    if not interrupted and not records.in_multirun():
        table.show(record, str(folder))
    if path and exit_code in (OK, INVALID) and record.status != "skipped":
        _measured[record.key] = path
    tracked: dict[str, Any] = {}
    if path and not interrupted and config.tracking.enabled and exit_code != 2:
        from sdxl import tracking

        sweep_name = folder.parent.name if records.in_multirun() else None
        tracked = tracking.log(path, config.tracking, sweep_name)
        if tracked["mlflow_run"] and not records.in_multirun():
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


def _take_over(folder: Path, path: Path, record: Record) -> Outcome:
    """The cell as an earlier sweep left it: the same record, its files linked into this folder."""
    if path.parent.resolve() != folder.resolve():
        for part in ("images", "images.png", "loadgen"):
            _link(path.parent / part, folder / part)
        shutil.copyfile(path, folder / "record.json")
    _measured[record.key] = path
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


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
