"""The best published MLPerf result on a cell's accelerator: `conf/published.yaml`, figures only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from sdxl.config.rules_model import MLPERF_GUIDANCE
from sdxl.core.paths import CONF
from sdxl.report.cell import Best, Cell
from sdxl.report.cells import Cells
from sdxl.report.values import number

TABLE = CONF / "published.yaml"
MS = "SingleStream"
"""The scenario whose published figure is a latency."""


@dataclass(frozen=True)
class Row:
    """A published result of one accelerator: images/s of one of them."""

    rate: float
    source: str
    url: str


def mark(found: Cells) -> int:
    """Give every cell that did the benchmark's work its accelerator's best; returns how many."""
    marked = 0
    for cell in found.cells:
        cell.best_published = None if cell.published else beside(cell)
        marked += cell.best_published is not None
    return marked


def beside(cell: Cell) -> Best | None:
    """The best published result in the cell's scenario on its accelerator, each for one of them."""
    names = cell.record.environment.gpu_names
    scenario = str(cell.setting("scenario.name"))
    if not (names and cell.speed and _benchmark(cell)):
        return None
    rows = list(_rows(names[0], scenario))
    best = max(rows, key=lambda row: row.rate, default=None)
    if best is None:
        return None
    devices = cell.setting("backend.devices") or [0]
    return Best(best.rate, cell.speed / len(devices) / best.rate, best.source, best.url)


def _benchmark(cell: Cell) -> bool:
    """Whether a picture cost what the benchmark's costs: model, size, steps, nothing left out."""
    wanted = {"model.name": "sdxl", "model.height": 1024, "model.width": 1024, "model.steps": 20}
    short = cell.setting("shortcut.name", "none") != "none"
    guided = (number(cell.setting("model.guidance", MLPERF_GUIDANCE)) or 0) > 1
    return guided and not short and all(cell.setting(n) == value for n, value in wanted.items())


def _rows(device: str, scenario: str) -> Iterator[Row]:
    """What is published of a device, by the name that its driver gives it."""
    table = _table()
    for accelerator in table["accelerators"].values():
        if device.lower() not in (name.lower() for name in accelerator["known_as"]):
            continue
        for row in accelerator["results"]:
            if value := row.get(scenario):
                rate = (1e3 / value if scenario == MS else value) / row["count"]
                source = f"{row['submitter']} {row['id']}"
                yield Row(rate, source, table["source"].format(**row))


@cache
def _table() -> dict[str, Any]:
    from omegaconf import OmegaConf

    found: Any = OmegaConf.to_container(OmegaConf.load(TABLE), resolve=True)
    return dict(found)
