"""Cells: records as a report sees them, named by what differs, joined to their baselines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from os.path import commonpath
from pathlib import Path
from typing import Any

from sdxl.core import records
from sdxl.core.errors import UserError
from sdxl.core.paths import ROOT
from sdxl.core.record import RECORD_SCHEMA
from sdxl.report.cell import BASELINE, REFERENCE, Cell, reference_of
from sdxl.report.naming import label


@dataclass
class Cells:
    """What a report is about; `unreadable` are files that are not records, with the reason;
    trainings stand apart: they draw nothing that could ship."""

    cells: list[Cell]
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    trainings: list[Cell] = field(default_factory=list)

    @property
    def groups(self) -> dict[str, list[Cell]]:
        """Measured cells by the work they did."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            if cell.measured:
                found.setdefault(cell.group, []).append(cell)
        return found

    @property
    def unfinished(self) -> list[Cell]:
        """Failed, timed-out and skipped cells."""
        return [cell for cell in self.cells if not cell.measured]


def load(places: Sequence[Path]) -> Cells:
    """Records from files and folders (searched through), named, joined to their baselines.

    Without places: the newest folder of `multirun/`. Raises `UserError` if there is no record.
    """
    paths = [path.resolve() for path in _paths(list(places) or [newest()])]
    found: dict[Path, Cell] = {}
    unreadable: list[tuple[Path, str]] = []
    for path in dict.fromkeys(paths):
        _read(path, found, unreadable)
    for cell in list(found.values()):
        _join(cell, found, unreadable)
    if not found:
        reason = f"{unreadable[0][0]}: {unreadable[0][1]}" if unreadable else None
        raise UserError(
            "there is no record to report", reason, "record.json files or folders with some",
            "python run.py",
        )  # fmt: skip
    trainings = [cell for cell in found.values() if cell.record.training]
    cells = [cell for cell in found.values() if not cell.record.training]
    cells.sort(key=lambda c: (not c.measured, c.quantized, _natural(c.path)))
    for count, cell in enumerate((*cells, *trainings), 1):
        cell.number = count
    label(cells)
    for cell in trainings:
        cell.label = f"{cell.path.parent.parent.name} {cell.path.parent.name}"
    whole = Cells(cells, unreadable, trainings)
    _choose_measure(whole)
    return whole


def set_price(found: Cells, per_hour: float) -> None:
    """Another price of an hour than our own records have; published systems are others'."""
    if per_hour < 0:
        raise UserError("--per-hour is too small", per_hour, "a price, at least 0")
    for cell in found.cells:
        if not cell.published:
            cell.record.config["cost"] = {"per_hour": per_hour}


def newest(folder: Path | None = None) -> Path:
    """The run or sweep started last that left a record."""
    folder = folder or ROOT / "multirun"
    starts = sorted(folder.glob("*/*/"), key=lambda p: (p.parent.name, _start(p)), reverse=True)
    for place in starts:
        if next(place.rglob("record.json"), None):
            return place
    raise UserError(
        "nothing was measured yet", str(folder), "a run first", "python run.py"
    )  # fmt: skip


def _paths(places: Iterable[Path]) -> Iterable[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(place.rglob("record.json"))
        elif place.is_file():
            yield place
        else:
            raise UserError("there is no such record", str(place), "a record.json or a folder")


def _read(path: Path, found: dict[Path, Cell], unreadable: list[tuple[Path, str]]) -> Cell | None:
    try:
        record = records.read(path)
        if record.schema > RECORD_SCHEMA:
            raise ValueError(f"schema {record.schema} is newer than this program's")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        unreadable.append((path, str(error)))
    else:
        found[path] = Cell(path, record)
        return found[path]
    return None


def _join(cell: Cell, found: dict[Path, Cell], unreadable: list[tuple[Path, str]]) -> None:
    """Find the baseline: where it is said to lie, or its copy among the records given.

    If there is nothing any more, the records were moved: the nearest one whose path ends so.
    """
    stated = cell.against_baseline.record
    if stated is None:
        return
    path = Path(stated)
    path = (path if path.is_absolute() else cell.path.parent / path).resolve()
    if path in found:
        cell.baseline = found[path]
    elif path.name == "record.json" and path.is_file():
        given = {each.record.id: each for each in found.values()}
        if there := _read(path, found, unreadable):
            cell.baseline = given.get(there.record.id, there)
            if cell.baseline is not there:
                del found[path]
    elif moved := [p for p in found if p.parts[-3:] == path.parts[-3:]]:
        near = max(moved, key=lambda p: len(commonpath([p, cell.path])))
        cell.baseline = found[near]


def _choose_measure(found: Cells) -> None:
    """One quality measure for each group: distance to the reference where any cell has it."""
    for cell in found.cells:
        if cell.baseline:
            cell.baseline.is_baseline = True
    for cells in found.groups.values():
        referred = any(reference_of(cell.record) for cell in cells)
        for cell in cells:
            cell.against = REFERENCE if referred else BASELINE


def _natural(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def _start(path: Path) -> str:
    return path.name.removeprefix("run-")
