"""A multirun as one thing: its cells before it starts, its table while it runs, its end.

Hydra makes the cells and launches them; this only looks ahead (the same expansion as its basic
sweeper's) and keeps the score.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sdxl import estimate, ledger, prompts, records
from sdxl.cli import Outcome
from sdxl.config import ROOT, load
from sdxl.errors import ConfigError, UserError, one_line
from sdxl.report.sweep_view import View
from sdxl.schema import Config, Format

STOPPED = "not started: fail_fast=true and an earlier cell failed"


@dataclass
class Cell:
    """One cell as planned and, later, as it ended."""

    number: int
    overrides: list[str]
    config: Config | None = None
    problem: str = ""
    key: str = ""
    cached: str = ""  # when the reusable record was started
    seconds: float | None = None  # estimate
    status: str = "waiting"
    outcome: Outcome = field(default_factory=dict)

    def ahead(self) -> tuple[str, float | None]:
        """What the plan says of the cell, and its estimated seconds (0: nothing runs)."""
        done = self.problem or self.cached
        return (done, 0.0) if done else ("to measure", self.seconds)


class Sweep:
    """The cells of one multirun and how far they are."""

    def __init__(self, config_name: str, words: list[str]) -> None:
        from hydra import compose, initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra

        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            self.cells = [
                _cell(number, overrides, compose(config_name, overrides=overrides))
                for number, overrides in enumerate(_expand(config_name, words))
            ]
        GlobalHydra.instance().clear()
        self._look_ahead()
        self.only_plan = any(cell.config and cell.config.plan for cell in self.cells)
        self.stopped = False
        self.view = View([" ".join(words) for words in _differing(self.cells)])

    def announce(self) -> None:
        """Say what is going to happen."""
        twins = {_twin_key(c.config) for c in self.cells if c.config and not c.cached} - {None}
        cached = sum(bool(cell.cached) for cell in self.cells)
        self.view.plan([cell.ahead() for cell in self.cells], cached, len(twins))

    @contextmanager
    def cell(self, number: int) -> Iterator[Cell]:
        """Around one cell: marks it running, then as it ended."""
        cell = self.cells[number]
        cell.status = "running"
        began = time.monotonic()
        self.view.running(number)
        yield cell
        cell.status = cell.outcome.get("status", "failed")
        left = [c.seconds for c in self.cells[number + 1 :] if not c.cached]
        known = [s for s in left if s is not None]
        took = time.monotonic() - began
        eta = sum(known) + took * (len(left) - len(known))
        self.view.ended(number, cell.outcome, took, eta)
        failed = cell.outcome.get("exit_code") not in (0, 3)
        if failed and cell.config and cell.config.fail_fast:
            self.stopped = True

    def not_started(self) -> Outcome:
        """The outcome of a cell after `fail_fast` ended the sweep."""
        return {"status": "skipped", "reason": STOPPED, "record": None, "exit_code": 0}

    def planned(self) -> list[Outcome]:
        """The outcomes of `plan=true`: what would happen, cell by cell."""
        return [
            {
                "status": "failed" if cell.problem else "planned",
                "reason": cell.problem or cell.cached or None,
                "record": None,
                "seconds": cell.seconds,
                "command": " ".join(["python", "run.py", *cell.overrides]),
                "exit_code": 2 if cell.problem else 0,
            }
            for cell in self.cells
        ]

    def _look_ahead(self) -> None:
        """Which cells are done already, which can only repeat another, how long the rest takes."""
        seen: dict[str, int] = {}
        for cell in self.cells:
            if not cell.config:
                continue
            cell.key = records.identity(cell.config)
            found = ledger.recall(cell.key, ledger.policy_of(cell.config, multirun=True))
            if cell.key in seen:
                cell.cached = f"equal to cell {seen[cell.key]}"
            elif found:
                cell.cached = f"measured {found[1].started}"
            else:
                cell.seconds = _estimate(cell.config)
            seen.setdefault(cell.key, cell.number)


def _cell(number: int, overrides: list[str], composed: Any) -> Cell:
    try:
        return Cell(number, overrides, load(composed))
    except ConfigError as error:
        return Cell(number, overrides, problem=f"refused: {one_line(error.problems)}")


def _expand(config_name: str, words: list[str]) -> list[list[str]]:
    """The override lists of the cells, in Hydra's order."""
    from hydra import compose
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    parsed = parser.parse_overrides(words)
    fixed = [
        word
        for word, override in zip(words, parsed, strict=True)
        if not override.is_sweep_override()
    ]
    hydra = compose(config_name, overrides=fixed, return_hydra_config=True).hydra
    params = [f"{name}={value}" for name, value in (hydra.sweeper.get("params") or {}).items()]
    given = [o for o in parsed if not o.is_hydra_override()]
    batches = BasicSweeper.split_arguments([*parser.parse_overrides(params), *given], None)
    return [list(cell) for batch in batches for cell in batch]


def _differing(cells: list[Cell]) -> list[list[str]]:
    """Each cell's overrides without those that all share."""
    shared = set.intersection(*(set(cell.overrides) for cell in cells)) if cells else set()
    return [[word for word in cell.overrides if word not in shared] for cell in cells]


def _estimate(config: Config) -> float | None:
    try:
        return estimate.seconds(config, len(prompts.load(config.dataset, config.limit)))
    except UserError:  # missing captions: the cell itself will say so
        return None


def _twin_key(config: Config) -> str | None:
    from sdxl.cell import twin_of

    if config.quant.format is Format.none or not config.quality.twin:
        return None
    return records.identity(twin_of(config))
