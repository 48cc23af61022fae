"""What a finished measurement leaves: its record, its table, its run in MLflow, its JSON line."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path
from typing import Any

from sdxl.config.content_key import plain
from sdxl.config.schema import Config, Cost
from sdxl.core import disk, records, terminal
from sdxl.core.command import Outcome
from sdxl.core.errors import FAILED, INVALID, OK, USER, SdxlError, UserError, one_line, show
from sdxl.core.record import Performance, Record
from sdxl.report.cell import Cell
from sdxl.report.mlflow import client
from sdxl.report.terminal import table
from sdxl.report.values import number
from sdxl.run import ledger, shared
from sdxl.run.shared import Shared

EXIT_CODES = {"ok": OK, "invalid": INVALID, "skipped": OK}
_FIGURES = ("images_per_second", "metric", "value", "speed_up")
_LINKED = ("images", "images.png", "baseline.png", "twins.png", "loadgen", "trace.json.gz",
           "prompts.json")  # fmt: skip
"""Files of a cell that a sweep which takes it over links into its folder (`twins.png`: old)."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after the record was written; `outcome` is the JSON line."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("interrupted")
        self.outcome = outcome


def finish(
    config: Config,
    folder: Path,
    record: Record,
    exit_code: int,
    sweep: Shared | None,
    interrupted: bool = False,
) -> Outcome:
    """Record first, then the table, then MLflow; returns the outcome, which is the record's.

    A record that cannot be kept makes the measurement `failed`; its figures are still shown. What
    goes wrong afterwards is a warning, and Ctrl-C comes too late to change the outcome.
    """
    path: Path | None = None
    try:
        path = records.write(record, folder)
    except SdxlError as lost:  # a full disk
        show(lost)
        record.reason = "; ".join(filter(None, [record.reason, one_line(lost.problems)]))
        record.status, exit_code = "failed", FAILED
    outcome = dataclasses.replace(outcome_of(record, path), exit_code=exit_code)
    if interrupted:
        return outcome
    try:
        if path and record.status != "skipped":
            ledger.remember(record, path)
        if not sweep:
            _show(record, folder)
        if path and config.tracking.enabled and exit_code != USER:
            outcome.tracked = client.log(
                path, config.tracking, sweep.mlflow_parent if sweep else None
            )
            if outcome.tracked["mlflow_run"] and not sweep:
                terminal.tell(f"MLflow run {outcome.tracked['mlflow_run']}; to look: make ui")
    except KeyboardInterrupt as stop:
        raise Interrupted(outcome) from stop
    return outcome


def _show(record: Record, folder: Path) -> None:
    """The table, which may fail without harm to what was measured."""
    try:
        table.show(record, str(folder))
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        terminal.say(f"warning: the table cannot be shown: {said}")


def outcome_of(record: Record, path: Path | None) -> Outcome:
    """What a record says."""
    cell = Cell(path or Path(), record)
    figures = {"joules_per_image": cell.joules, "price_per_thousand": cell.price}
    return Outcome(
        record.status,
        EXIT_CODES.get(record.status, FAILED),
        record.reason or None,
        str(path) if path else None,
        record.command,
        {
            **_figures(record),
            "psnr_db": number(cell.psnr),
            **({"compared_with": cell.compared_with} if cell.psnr is not None else {}),
            "comparable": record.comparable,
            **{n: v for n, v in figures.items() if v is not None},
            **({"speed_means_nothing": cell.meaningless} if cell.simulated else {}),
        },
    )


def taken_over(record: Record, path: Path) -> Outcome:
    """What the record of another sweep says."""
    cached = f"measured {record.started}, rerun=all to measure again"
    return dataclasses.replace(outcome_of(record, path), cached=cached)


def _figures(record: Record) -> dict[str, Any]:
    return {name: getattr(record.performance, name) for name in _FIGURES}


def clear(folder: Path) -> None:
    """Take away what an earlier measurement left in `folder`, if it left a record.

    Its pictures may be links to another record's: to write into them would change those too. What
    is not known as ours stays. Raises `UserError` where somebody else's files would be overwritten.
    """
    if not (folder / "record.json").is_file():
        if not (folder / "worker.log").is_file():
            _refuse_to_overwrite(folder)
        return
    for part in filter(Path.is_dir, folder.glob("repeat-[0-9]*")):
        if (part / "record.json").is_file() or (part / "worker.log").is_file():
            shutil.rmtree(part)
    for file in _ours(folder):
        file.unlink()
    for name in ("images", "loadgen"):
        with contextlib.suppress(OSError):  # there is something else in it
            (folder / name).rmdir()
    (folder / "record.json").unlink()


def _ours(folder: Path) -> list[Path]:
    """Files in a folder that have the names of a measurement's."""
    flat = [name for name in _LINKED if "." in name]
    patterns = ("images/[0-9][0-9][0-9][0-9][0-9][0-9].png", "loadgen/mlperf_log_*", *flat)
    return [file for pattern in patterns for file in folder.glob(pattern)]


def _refuse_to_overwrite(folder: Path) -> None:
    """Files with our names, in a folder without a sign of a measurement."""
    if found := _ours(folder):
        raise UserError(
            f"{folder} has files of somebody else, which the run would overwrite",
            str(found[0].relative_to(folder)),
            "a folder of its own",
            "hydra.run.dir=FOLDER",
        )


def take_over(folder: Path, path: Path, record: Record, cost: Cost | None = None) -> Outcome:
    """The cell as another sweep left it: the same record, its files linked into this folder."""
    return settle(folder, stage(folder, path), record, cost)


def stage(folder: Path, path: Path) -> Path | None:
    """Link the cell at `path` into a folder beside `folder`; None: it lies in `folder` already.

    In a folder that an earlier sweep used, one cell may take the place that another comes from: a
    sweep stages all of them before it settles the first.
    """
    if path.parent.resolve() == folder.resolve():
        return None
    staged = folder.with_name(f".{folder.name}-taken")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    shutil.copyfile(path, staged / "record.json")
    for part in _LINKED:
        _link(path.parent / part, staged / part)
    return staged


def settle(folder: Path, staged: Path | None, record: Record, cost: Cost | None = None) -> Outcome:
    """Put a staged cell into its folder, at the price asked for now; returns its outcome."""
    if staged:
        clear(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # First, so that a folder with links in it is always known to need clearing.
        (staged / "record.json").replace(folder / "record.json")
        move(staged, folder)
    if cost and cost.per_hour is not None and record.config.get("cost") != plain(cost):
        record.config["cost"] = plain(cost)
        records.write(record, folder)
    return taken_over(record, folder / "record.json")


def move(source: Path, folder: Path) -> None:
    """Move every file under `source` to the same place under `folder`, over what is there."""
    for file in sorted(source.rglob("*")):
        if not file.is_dir():
            target = folder / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    shutil.rmtree(source)


def _link(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir()
        for each in source.iterdir():
            _link(each, target / each.name)
    elif source.is_file():
        disk.link(source, target)


def skip(config: Config, folder: Path, record: Record, equal: Path, number: int) -> Outcome:
    """A record of a cell that could only repeat cell `number`, whose record is `equal`."""
    other = records.read(equal)
    record.status, record.reason = "skipped", f"the same work as {number}"
    record.performance = Performance(equal_to=str(equal))
    record.quality, record.artifacts = other.quality, other.artifacts
    outcome = finish(config, folder, record, OK, shared.of_cell(folder))
    outcome.figures |= _figures(other)
    return outcome
