"""A multirun as one thing: its cells before it starts, its table while it runs, its end.

Hydra launches the cells, here or in other processes; what they came to is in their records.
Cells that an earlier sweep has finished are taken over here and never reach the launcher.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdxl.config.compose import Composer
from sdxl.core import disk, terminal
from sdxl.core.command import NOT_STARTED, Outcome
from sdxl.core.errors import FAILED, INVALID, OK, USER, ConfigError, UserError, one_line
from sdxl.core.progress import Say
from sdxl.core.types import now
from sdxl.report.mlflow import sweeps
from sdxl.report.terminal.sweep_view import View
from sdxl.run import identity, outcomes, shared
from sdxl.run.command_line import line_of
from sdxl.run.doctor.preflight import preflight
from sdxl.run.sweep.cells import (
    Planned,
    baseline_key,
    combinations,
    differing,
    fitted,
    look_ahead,
    varying,
)
from sdxl.run.sweep.watch import Watch, outcome_in

STOPPED = "not started: fail_fast=true and an earlier cell failed"
NO_RECORD = "its process ended without a record; see the launcher's logs"
HERE = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
SUBDIR = "${hydra.job.num}"
Launch = Callable[[list[list[str]]], Any]


class Sweep:
    """The cells of one multirun and how far they are."""

    def __init__(self, config_name: str, words: list[str], config_dir: str | None = None) -> None:
        disk.store_ready(0)
        self.composer, self._config_dir = Composer(config_name, config_dir), config_dir
        self.words, self.started = words, now()
        self._parent: sweeps.Parent | None = None
        self._parent_asked = False
        self.cells: list[Planned] = []
        self._seen: dict[str, int] = {}
        fixed, points, self.space = combinations(self.composer, words)
        hydra = self.composer.hydra(fixed)
        self.folder = Path(hydra.sweep.dir).absolute()
        self.elsewhere = hydra.launcher.get("_target_") != HERE
        self._batch = hydra.sweeper.get("max_batch_size")
        _refuse_subdir(hydra)
        self.search: Any = None
        if hydra.sweeper.get("trials"):
            from sdxl.run.sweep.search import Search

            self.search = Search(self.composer, fixed, self.space, hydra.sweeper)
            points = self.search.known
        for used, point in zip(fitted(self.composer, points), points, strict=True):
            self._add(used, point)
        self.only_plan = any(cell.config and cell.config.plan for cell in self.cells) or (
            "plan=true" in words
        )
        self.name = self._name()
        self.view = View(self._labels())

    def announce(self) -> None:
        """Say what is going to happen, and which words mean only some of the cells."""
        baselines = {baseline_key(c.config) for c in self.cells if c.config and not c.done} - {None}
        cached = sum(bool(cell.cached) for cell in self.cells)
        more = self.search.describe() if self.search else ""
        self.view.plan([cell.ahead() for cell in self.cells], cached, len(baselines), more)
        left_out = Counter(w for cell in self.cells for w in {*cell.asked} - {*cell.overrides})
        for word, count in sorted(left_out.items()):
            terminal.say(
                f"{word}: left out of {count} cell{'s' * (count > 1)} that would ignore it"
            )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around Hydra's work: the folder and MLflow's parent run before it, the table during."""
        disk.store_ready()
        if problems := disk.room(self.folder, disk.NOTES_BYTES, "hydra.sweep.dir=FOLDER"):
            raise ConfigError(problems)
        shared.begin(self.folder, shared.Shared(self.name, self.started))
        self.view.start()
        try:
            yield
        finally:
            self.view.stop()

    def run(self, launch: Launch) -> None:
        """Take over what is done, launch what is missing, settle what equals another cell."""
        self._run(self.cells, launch)
        if not self.search:
            return
        self.search.tell(self.cells)
        while points := self.search.ask(self._batch or 1):
            cells = [self._add(point) for point in points]
            self.view.labels[:] = self._labels()
            self._run(cells, launch)
            self.search.tell(cells)

    def measure(self, folder: Path, work: Callable[[Say | None], Outcome]) -> None:
        """One cell in this process: marks it running, calls `work(say)`, marks how it ended."""
        cell = self.cells[int(folder.name)]
        cell.status = "running"
        began = time.monotonic()
        self.view.running(cell.number)
        cell.outcome = Outcome.failed("interrupted", FAILED)
        try:
            halted = shared.stopped(self.folder)
            cell.outcome = _skipped(STOPPED) if halted else work(self.view.listener(cell.number))
        except KeyboardInterrupt as stop:  # perhaps when its record was written already
            written = outcome_in(folder, cell.key, self.started)
            cell.outcome = getattr(stop, "outcome", written or cell.outcome)
            raise
        finally:
            self._ended(cell, time.monotonic() - began)

    def outcomes(self) -> list[Outcome]:
        """What each cell came to, from their records where they ran elsewhere."""
        if self.only_plan:
            return [self._planned(cell) for cell in self.cells]
        return [cell.outcome or self._not_started(cell) for cell in self.cells]

    def end(self, cells: Sequence[Outcome], interrupted: bool) -> None:
        """Close MLflow's parent run, if there is one; after Ctrl-C say how to go on."""
        if self._parent:
            self._parent.end(cells, interrupted)
        if interrupted:
            done = sum(cell.exit_code in (OK, INVALID) for cell in cells)
            terminal.say(
                f"{done} of {len(cells)} cells are done and kept; to go on, type the same command "
                "again: it measures only what is missing"
            )

    def summary(self) -> dict[str, Any]:
        """What the JSON line says of the sweep beside its counts."""
        found: dict[str, Any] = {"sweep": self.name, "folder": str(self.folder)}
        return found | (self.search.summary() if self.search else {})

    def command(self, cell: Planned) -> str:
        """The line that measures one cell alone."""
        return line_of("run", cell.overrides, self._config_dir)

    def _add(self, overrides: list[str], asked: list[str] | None = None) -> Planned:
        cell = Planned(len(self.cells), overrides, asked=asked or overrides)
        self.cells.append(cell)
        look_ahead(cell, self.composer, self._seen)
        return cell

    def _run(self, cells: Sequence[Planned], launch: Launch) -> None:
        found = {c.number: (self.folder / str(c.number), *c.found) for c in cells if c.found}
        staged = {number: outcomes.stage(place, path) for number, (place, path, _) in found.items()}
        for cell in cells:
            if cell.problem:
                self._settle(cell, Outcome.failed(cell.problem, USER))
            elif cell.unable:
                self._settle(cell, _skipped(cell.unable))
            elif cell.found:
                place, _, record = found[cell.number]
                assert cell.config
                taken = outcomes.settle(place, staged[cell.number], record, cell.config.cost)
                self._settle(cell, taken)
        missing = [cell for cell in cells if not cell.done]
        self._open_parent(missing)
        for batch in _batches(missing, self._batch):
            jobs = [[*cell.overrides, f"hydra.sweep.subdir='{cell.number}'"] for cell in batch]
            if self.elsewhere:
                with self._watching(batch):
                    launch(jobs)
            else:
                launch(jobs)
        for cell in cells:
            if cell.equal is not None:
                self._settle(cell, self._equal(cell))

    def _open_parent(self, missing: Sequence[Planned]) -> None:
        """MLflow's parent run, made once and here, before any cell needs it or its database."""
        wanted = [c.config.tracking for c in missing if c.config and c.config.tracking.enabled]
        if not wanted or self._parent_asked:
            return
        self._parent_asked = True
        self._parent = sweeps.begin(self.name, wanted[0], self.folder)
        run_id = self._parent.run_id if self._parent else None
        shared.begin(self.folder, shared.Shared(self.name, self.started, run_id))

    @contextmanager
    def _watching(self, cells: Sequence[Planned]) -> Iterator[None]:
        """While other processes work on `cells`: show each that begins or ends."""
        watch = Watch(self.folder, cells, self.started, self.view.running, self._ended)
        watch.start()
        interrupted = False
        try:
            yield
        except KeyboardInterrupt:
            interrupted = True
            raise
        finally:
            watch.stop()
            halted = shared.stopped(self.folder)
            lost = _skipped(STOPPED) if halted else Outcome.failed(NO_RECORD, FAILED)
            for cell in cells if not interrupted else []:
                if not cell.outcome:
                    self._settle(cell, dataclasses.replace(lost))

    def _settle(self, cell: Planned, outcome: Outcome) -> None:
        cell.outcome = outcome
        self._ended(cell, 0.0)

    def _ended(self, cell: Planned, took: float) -> None:
        outcome = cell.outcome
        assert outcome
        outcome.command = self.command(cell)
        cell.status, cell.took = outcome.status, took
        self.view.ended(cell.number, outcome, took, self._left())
        failed = outcome.exit_code not in (OK, INVALID)
        if failed and cell.config and cell.config.fail_fast:
            shared.stop(self.folder)

    def _left(self) -> float:
        """Estimated seconds until the end, as if the cells ran one after the other."""
        left = [cell.seconds for cell in self.cells if not cell.outcome and not cell.done]
        took = [c.took for c in self.cells if c.outcome and not c.done and c.took]
        usual = sum(took) / len(took) if took else 0.0
        more = self.search.left(len(self.cells)) * usual if self.search else 0.0
        total = more + sum(usual if seconds is None else seconds for seconds in left)
        return total / max(1, sum(cell.status == "running" for cell in self.cells))

    def _equal(self, cell: Planned) -> Outcome:
        """A cell that could only repeat another one."""
        assert cell.equal is not None and cell.config is not None
        other = self.cells[cell.equal]
        found = other.outcome
        if not found or not found.record or found.exit_code not in (OK, INVALID):
            return _skipped(f"the same work as {other.number}, which gave no figures")
        record = identity.new(cell.config)
        record.command = self.command(cell)
        place = self.folder / str(cell.number)
        return outcomes.skip(cell.config, place, record, Path(found.record), other.number)

    def _planned(self, cell: Planned) -> Outcome:
        """What `plan=true` says of a cell, which ends as the cell would."""
        lacking = one_line(preflight(cell.config)) if cell.config and not cell.done else ""
        return Outcome(
            "failed" if cell.problem or lacking else "planned",
            USER if cell.problem or lacking else OK,
            cell.problem or lacking or cell.ahead()[0],
            command=self.command(cell),
            figures={"seconds": cell.seconds},
        )

    def _not_started(self, cell: Planned) -> Outcome:
        reason = "the sweep ended before it began"
        return Outcome(NOT_STARTED, FAILED, reason, command=self.command(cell))

    def _labels(self) -> list[str]:
        return [" ".join(words) for words in differing([cell.asked for cell in self.cells])]

    def _name(self) -> str:
        """The sweep by meaning: its overlay's name, and what varies in it."""
        overlays = [w.partition("=")[2] for w in self.words if w.startswith(("+sweep=", "+exp"))]
        keys = list(self.space) or varying([cell.asked for cell in self.cells])
        return ": ".join(part for part in (" ".join(overlays), " x ".join(keys)) if part) or "sweep"


def _skipped(reason: str) -> Outcome:
    return Outcome("skipped", OK, reason)


def _batches(cells: list[Planned], size: int | None) -> Iterator[list[Planned]]:
    size = size or max(1, len(cells))
    for start in range(0, len(cells), size):
        yield cells[start : start + size]


def _refuse_subdir(hydra: Any) -> None:
    from omegaconf import OmegaConf

    raw = OmegaConf.to_container(hydra.sweep, resolve=False)
    assert isinstance(raw, dict)
    if raw["subdir"] != SUBDIR:
        raise UserError(
            "`hydra.sweep.subdir` would be ignored: cells lie in folders by their number",
            raw["subdir"],
            "hydra.sweep.dir=FOLDER for the whole sweep",
        )
