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
from sdxl.core.record import RECORD_SCHEMA, Comparison, Record
from sdxl.report.naming import label
from sdxl.report.values import flatten, number

MEASURED = ("ok", "invalid")


@dataclass
class Cell:
    """One record with its place in the report; figures that it lacks are None."""

    path: Path
    record: Record
    number: int = 0
    label: str = ""
    baseline: Cell | None = None

    def setting(self, dotted: str, default: Any = None) -> Any:
        """A value of the configuration by its dotted name."""
        node: Any = self.record.config
        for part in dotted.split("."):
            if not isinstance(node, dict) or part not in node:
                return default
            node = node[part]
        return node

    @property
    def measured(self) -> bool:
        """Did LoadGen finish, validly or not?"""
        return self.record.status in MEASURED

    @property
    def quantized(self) -> bool:
        """Was the UNet asked to run in fewer bits?"""
        return str(self.setting("quant.format", "none")) != "none"

    @property
    def speed(self) -> float | None:
        """Images per second."""
        return self.record.performance.images_per_second

    @property
    def speed_up(self) -> float | None:
        """Throughput over the unquantized baseline's."""
        return self.record.performance.speed_up

    @property
    def repeats(self) -> list[float]:
        """Images per second of each repetition, if the cell was repeated."""
        return [rate for rate in self.record.performance.repeats if rate]

    @property
    def meaningless(self) -> str:
        """Why its speed says nothing about a product; empty if it does."""
        if self.setting("backend.name") == "fake":
            return "the fake backend runs no model"
        if self.record.performance.generator.simulated:
            return "quantized arithmetic was simulated"
        return ""

    @property
    def latency(self) -> dict[str, float]:
        """Milliseconds by `min`, `p50`, `p90`, `p95`, `p97`, `p99`, `p99.9`, `max`, `mean`."""
        detail = self.record.performance.loadgen.detail
        names = {"min": "min_latency", "mean": "mean_latency", "max": "max_latency"}
        names |= {f"p{p:g}": f"{p:.2f}_percentile_latency" for p in (50, 90, 95, 97, 99, 99.9)}
        found = {n: number(detail.get(f"result_{key}_ns")) for n, key in names.items()}
        ours = {name: number(v) for name, v in self.record.performance.latency_ms.items()}
        whole = {n: v / 1e6 for n, v in found.items() if v is not None}
        return whole | {n: v for n, v in ours.items() if v is not None}

    @property
    def one_latency(self) -> bool:
        """Did everything end at once, in one batch?"""
        return self.latency.get("min") == self.latency.get("max")

    @property
    def queries(self) -> int:
        """Queries that the latency percentiles rest on."""
        return int(number(self.record.performance.loadgen.detail.get("result_query_count")) or 0)

    @property
    def memory_gib(self) -> float | None:
        """Peak of the GPU's allocator, else of the resident memory."""
        found = self.record.resources
        size = found.cuda_peak_bytes or found.peak_rss_bytes
        return size / 2**30 if size else None

    @property
    def memory_kind(self) -> str:
        """Which memory `memory_gib` is."""
        return "GPU" if self.record.resources.cuda_peak_bytes else "resident"

    @property
    def against_baseline(self) -> Comparison:
        """The comparison with the baseline's pictures; empty (and false) where there is none."""
        return self.record.quality.baseline

    @property
    def psnr(self) -> float | None:
        """dB against the baseline; None if there is no comparison, or nothing differs."""
        return self.against_baseline.psnr_db

    @property
    def ssim(self) -> float | None:
        """Structural similarity to the baseline."""
        return self.against_baseline.ssim

    @property
    def loss(self) -> float | None:
        """Root mean square difference to the baseline, percent of full scale; 0 if unquantized.

        None where a quantized cell was not compared, or no model ran.
        """
        if self.setting("backend.name") == "fake":
            return None
        found = self.against_baseline
        if not found:
            return None if self.quantized or not self.measured else 0.0
        pairs = [number(pair.get("psnr_db")) for pair in found.pairs]
        decibels = pairs or [found.psnr_db]
        errors = [0.0 if db is None else 10 ** (-db / 10) for db in decibels]
        return 100.0 * (sum(errors) / len(errors)) ** 0.5 if errors else None

    @property
    def group(self) -> str:
        """Cells of one group did the same work and can be ranked; this is its title."""
        size = f"{self.setting('model.width', '?')} x {self.setting('model.height', '?')}"
        return (
            f"{self.setting('model.name', 'unknown model')} {size}, "
            f"{self.setting('model.steps', '?')} steps, {self.setting('scenario.name', '?')}"
            + (", accuracy" if self.setting("mode") == "accuracy" else "")
        )


@dataclass
class Cells:
    """What a report is about; `unreadable` are files that are not records, with the reason."""

    cells: list[Cell]
    unreadable: list[tuple[Path, str]] = field(default_factory=list)

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
    cells = sorted(found.values(), key=lambda c: (not c.measured, c.quantized, _natural(c.path)))
    for count, cell in enumerate(cells, 1):
        cell.number = count
    label(cells)
    return Cells(cells, unreadable)


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


def _natural(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]


def _start(path: Path) -> str:
    return path.name.removeprefix("run-")


def surroundings(cell: Cell) -> dict[str, Any]:
    """The environment as facts to compare, without a failure's traceback."""
    found = {k: v for k, v in cell.record.environment.to_json().items() if k != "traceback"}
    gpus = found.pop("accelerators", None)
    if isinstance(gpus, list):
        found["accelerators"] = ", ".join(cell.record.environment.gpu_names) or "none"
    if number(found.get("memory_bytes")):
        found["memory_bytes"] = f"{float(found['memory_bytes']) / 2**30:.1f} GiB"
    return found


def other_scores(cell: Cell) -> dict[str, float]:
    """Quality scores beside PSNR and SSIM, such as FID or CLIP."""
    quality = cell.record.quality.to_json()
    apart = ("baseline", "layer_errors", "reference", "per_prompt")
    flat = flatten({k: v for k, v in quality.items() if k not in apart})
    if near := cell.against_baseline.perceptual_scenes:
        flat["baseline.perceptual_scenes"] = near
    return {k: v for k, v in ((k, number(v)) for k, v in flat.items()) if v is not None}
