"""What a finished measurement leaves: its record, its table, its run in MLflow, its JSON line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from sdxl import ledger, records
from sdxl.cli import Outcome
from sdxl.errors import FAILED, INVALID, OK, SdxlError, show
from sdxl.report import table
from sdxl.schema import Config
from sdxl.sweep import shared
from sdxl.sweep.shared import Shared
from sdxl.types import Record

EXIT_CODES = {"ok": OK, "invalid": INVALID, "skipped": OK}
_FIGURES = ("images_per_second", "metric", "value", "speed_up")


def finish(
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
    return {
        "status": record.status,
        "reason": record.reason or None,
        "record": str(path) if path else None,
        **{name: record.performance.get(name) for name in _FIGURES},
        "psnr_db": record.quality.get("twin", {}).get("psnr_db"),
        "comparable": record.comparable,
        "command": record.command,
        "exit_code": EXIT_CODES.get(record.status, FAILED),
    }


def take_over(folder: Path, path: Path, record: Record) -> Outcome:
    """The cell as another sweep left it: the same record, its files linked into this folder."""
    if path.parent.resolve() != folder.resolve():
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("images", "images.png", "twins.png", "loadgen", "trace.json.gz"):
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
    outcome = finish(config, folder, record, OK, shared.of_cell(folder))
    return {**outcome, **{name: other.performance.get(name) for name in _FIGURES}}
