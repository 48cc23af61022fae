"""A sweep that chooses its cells: fast and close to the original, by Optuna's ask and tell.

Optuna proposes, the cells are ordinary cells, and the records are the storage: every record here
that lies in the space is told before the first question. So a search that was killed goes on, a
larger one builds on a smaller one, and a grid measured before counts too.
"""

from __future__ import annotations

import math
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException

from sdxl.config.compose import Composer
from sdxl.config.content_key import plain
from sdxl.core import records
from sdxl.core.errors import ConfigError, UserError
from sdxl.report.apart import CEILING_DB
from sdxl.report.cell import Cell
from sdxl.run import identity, ledger
from sdxl.run.sweep.cells import Planned, Space, ignored

TRIES = 200
"""Proposals in a row that are known or refused, after which the space counts as exhausted."""
STARTUP = 10
"""Trials drawn at random before the sampler believes what it has seen."""


class Search:
    """One study: maximize images per second and PSNR, the report's own quality measure."""

    def __init__(self, composer: Composer, fixed: list[str], space: Space, settings: Any) -> None:
        if not space:
            raise UserError(
                "there is nothing to search over", "no swept key", "hydra.sweeper.params",
                "run.py -m +sweep=pareto",
            )  # fmt: skip
        self.trials, self.min_psnr = int(settings.trials), settings.get("min_psnr")
        self._composer = composer
        self._fixed = [word for word in fixed if not word.lstrip("+~").startswith("hydra")]
        self._axes = {name: _axis(override) for name, override in space.items()}
        self._values: dict[str, tuple[float, float] | None] = {}  # key -> objectives, None: failed
        self._open: dict[str, Any] = {}  # key -> trial
        self._params: dict[str, dict[str, Any]] = {}
        self._absent: set[tuple[str, Any]] = set()  # (key, option of its group that has none)
        self.known = [] if "rerun=all" in self._fixed else self._recall()
        self._study = self._new_study(int(settings.get("seed") or 0) + len(self.known))

    def describe(self) -> str:
        """The search in the plan's words."""
        sizes = [len(axis) if isinstance(axis, list) else math.inf for axis in self._axes.values()]
        room = math.prod(sizes)
        count = "infinitely many" if math.isinf(room) else f"{room:,.0f}"
        bound = f", PSNR at least {self.min_psnr:g} dB" if self.min_psnr is not None else ""
        left = self.left(len(self.known))
        return f"{left} trials to choose among {count} settings of {' x '.join(self._axes)}{bound}"

    def left(self, done: int) -> int:
        """Trials that are still to be made when there are `done` cells."""
        return max(0, self.trials - done)

    def ask(self, count: int) -> list[list[str]]:
        """The words of up to `count` cells that nobody has measured; empty when it is over."""
        points: list[list[str]] = []
        count = min(count, self.left(len(self._values) + len(self._open)))
        for _ in range(TRIES):
            if len(points) == count:
                break
            trial = self._study.ask()
            params = self._suggest(trial)
            words, key = self._words(params)
            if words is None or key in self._open or self._values.get(key, 0) is None:
                self._fail(trial)
            elif key in self._values:
                self._study.tell(trial, self._values[key])
            else:
                self._open[key] = trial
                points.append(words)
        return points

    def tell(self, cells: Sequence[Planned]) -> None:
        """What cells came to; the known ones are told as if they had been asked for."""
        for cell in cells:
            if not cell.key or cell.equal is not None:
                continue
            trial = self._open.pop(cell.key, None)
            if trial is None:
                self._study.enqueue_trial(self._params.get(cell.key, {}))
                trial = self._study.ask()
                self._suggest(trial)
            trial.set_user_attr("cell", cell.number)
            self._values[cell.key] = found = self._objectives(cell, trial)
            if found is None:
                self._fail(trial)
            else:
                self._study.tell(trial, found)

    def summary(self) -> dict[str, Any]:
        """Cells that no other beats in speed and closeness at once, inside the quality bound."""
        numbers = {trial.user_attrs.get("cell") for trial in self._study.best_trials}
        measured = sum(found is not None for found in self._values.values())
        return {
            "trials": len(self._values),
            "measured": measured,
            "min_psnr_db": self.min_psnr,
            "pareto": sorted(number for number in numbers if number is not None),
        }

    def _new_study(self, seed: int) -> Any:
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "a search needs Optuna", str(error), "optuna 5 or later",
                "python -m pip install -c constraints.txt -e '.[search]'",
            ) from error  # fmt: skip
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._failed = optuna.trial.TrialState.FAIL
        sampler = optuna.samplers.TPESampler(
            seed=seed,
            multivariate=True,
            constant_liar=True,  # several cells may be open at once
            n_startup_trials=min(STARTUP, max(1, self.trials // 2)),
        )
        return optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)

    def _suggest(self, trial: Any) -> dict[str, Any]:
        """A value for every axis; numbers by their place, so that neighbours are neighbours."""
        found: dict[str, Any] = {}
        for name, axis in self._axes.items():
            if isinstance(axis, tuple):
                found[name] = trial.suggest_float(name, *axis)
            elif _ordered(axis):
                found[name] = axis[trial.suggest_int(name, 0, len(axis) - 1)]
            else:
                found[name] = trial.suggest_categorical(name, axis)
        return found

    def _words(self, params: dict[str, Any]) -> tuple[list[str] | None, str]:
        """(words, key) of a cell without the settings its recipe would ignore; None if refused."""
        chosen = {n: v for n, v in params.items() if (n, _option(n, params)) not in self._absent}
        while True:
            words = [*self._fixed, *(f"{name}={value}" for name, value in chosen.items())]
            try:
                return words, identity.identity(self._composer.config(words))
            except ConfigError as error:
                unused = ignored(error, chosen)
            except ConfigCompositionException as error:  # the chosen option has no such key
                unused = [n for n in chosen if f"'{n}'" in str(error)]
                self._absent |= {(n, _option(n, params)) for n in unused}
            if not unused:
                return None, ""
            for name in unused:
                del chosen[name]

    def _objectives(self, cell: Planned, trial: Any) -> tuple[float, float] | None:
        """(images per second, PSNR in dB) of a valid cell; notes how far it breaks the bound.

        Identical pictures, and those of no model, have the ceiling of 8-bit pictures; the speed of
        simulated arithmetic counts as none.
        """
        if not cell.outcome or cell.outcome.status != "ok" or not cell.outcome.record:
            return None
        path = Path(cell.outcome.record)
        found = Cell(path, records.read(path))
        fake = found.setting("backend.name") == "fake"
        whole = not found.quantized or fake
        psnr = CEILING_DB if whole and found.psnr is None else found.psnr
        if not found.speed or psnr is None:
            return None
        if self.min_psnr is not None:
            trial.set_constraint("min_psnr", self.min_psnr - min(psnr, CEILING_DB))
        return 0.0 if found.meaningless and not fake else found.speed, min(psnr, CEILING_DB)

    def _fail(self, trial: Any) -> None:
        self._study.tell(trial, state=self._failed)

    def _recall(self) -> list[list[str]]:
        """The words of the cells in the space that have been measured here."""
        found: list[list[str]] = []
        groups = self._fixed_groups()
        for _, record in ledger.known():
            if any(_value(record.config, name) != option for name, option in groups.items()) or (
                len(found) >= self.trials
            ):
                continue
            typed = dict(w.split("=", 1) for w in shlex.split(record.command) if "=" in w)
            params = {n: typed.get(n, _value(record.config, n)) for n in self._axes}
            given = {n: _on_axis(self._axes[n], v) for n, v in params.items() if v is not None}
            if None in given.values():
                continue
            words, key = self._words(given)
            if words and key == record.key and key not in self._params:
                self._params[key] = {n: _place(self._axes[n], v) for n, v in given.items()}
                found.append(words)
        return found

    def _fixed_groups(self) -> dict[str, str]:
        """Names of the options that no trial changes."""
        words, _ = self._words({name: axis[0] for name, axis in self._axes.items()})
        if words is None:
            return {}
        config = plain(self._composer.config(words))
        nodes = {name: node for name, node in config.items() if isinstance(node, dict)}
        kept = ("tracking", "quant", "quality", *self._axes)
        return {n: node["name"] for n, node in nodes.items() if "name" in node and n not in kept}


def _axis(override: Any) -> Any:
    """The values of a discrete sweep as text, or (low, high) of an interval."""
    if override.is_discrete_sweep():
        return [str(value) for value in override.sweep_string_iterator()]
    value = override.value()
    return float(value.start), float(value.end)


def _option(name: str, params: dict[str, Any]) -> Any:
    """The option that a trial chose for the group of a key."""
    return params.get(name.partition(".")[0])


def _ordered(axis: list[str]) -> bool:
    return all(_number(text) is not None for text in axis)


def _value(config: Any, dotted: str) -> Any:
    """A setting of a stored configuration; of a group, its option's name."""
    for part in dotted.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config.get("name") if isinstance(config, dict) else config


def _on_axis(axis: Any, value: Any) -> Any:
    """The axis's own word for a stored value; None where it is not on the axis."""
    number = _number(value)
    if isinstance(axis, tuple):
        return value if number is not None and axis[0] <= number <= axis[1] else None
    same = (t for t in axis if t == str(value) or (number is not None and _number(t) == number))
    return next(same, None)


def _place(axis: Any, word: Any) -> Any:
    """What Optuna calls a value: its place among numbers, else itself."""
    return axis.index(word) if isinstance(axis, list) and _ordered(axis) else word


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
