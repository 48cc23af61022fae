"""The cells of a sweep before it runs: which there are, which are done, how long the rest takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdxl.config.compose import Composer
from sdxl.config.derive import baseline_of, has_baseline
from sdxl.config.plugins import backend_of
from sdxl.config.schema import Config
from sdxl.core.command import Outcome
from sdxl.core.errors import ConfigError, UserError, one_line
from sdxl.core.record import Record
from sdxl.model import prompts
from sdxl.run import estimate, identity, ledger


@dataclass
class Planned:
    """One cell as planned and, later, as it ended."""

    number: int
    overrides: list[str]
    config: Config | None = None
    problem: str = ""  # why it is refused
    unable: str = ""  # what this machine lacks for it
    key: str = ""
    found: tuple[Path, Record] | None = None  # a record that may stand for it
    equal: int | None = None  # the earlier cell whose work it would repeat
    seconds: float | None = None  # estimate
    took: float = 0.0
    status: str = "waiting"
    outcome: Outcome | None = None
    asked: list[str] = field(default_factory=list)  # words, with those left out as others' own

    @property
    def cached(self) -> str:
        """Which earlier work stands for it; empty if none does."""
        if self.found:
            return f"measured {self.found[1].started}"
        return "" if self.equal is None else f"equal to cell {self.equal}"

    @property
    def done(self) -> bool:
        """Whether nothing has to be launched for it."""
        return bool(self.problem or self.unable or self.cached)

    def ahead(self) -> tuple[str, float | None]:
        """What the plan says of the cell, and its estimated seconds (0: nothing runs)."""
        done = self.problem or (f"skipped: {self.unable}" if self.unable else self.cached)
        return (done, 0.0) if done else ("to measure", self.seconds)


def look_ahead(cell: Planned, composer: Composer, seen: dict[str, int]) -> None:
    """Fill in what can be known before it runs; `seen`: key -> number, of the cells before."""
    try:
        cell.config = composer.config(cell.overrides)
    except ConfigError as error:
        cell.problem = f"refused: {one_line(error.problems)}"
        return
    if any(word.startswith("+rung=") for word in cell.overrides):
        # A ladder goes on without the rung that this machine cannot climb.
        cell.unable = one_line(backend_of(cell.config).missing(cell.config))
        if cell.unable:
            return
    cell.key = identity.identity(cell.config)
    if cell.key in seen:
        cell.equal = seen[cell.key]
        return
    seen[cell.key] = cell.number
    cell.found = ledger.recall(cell.key, ledger.policy_of(cell.config, multirun=True))
    if not cell.found:
        cell.seconds = _estimate(cell.config)


Space = dict[str, Any]
"""Key -> Hydra's override that sweeps over it."""


def combinations(composer: Composer, words: list[str]) -> tuple[list[str], list[list[str]], Space]:
    """(fixed words, the words of every combination in Hydra's order, what is swept over)."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    parsed = parser.parse_overrides(words)
    fixed = [
        word
        for word, override in zip(words, parsed, strict=True)
        if not override.is_sweep_override()
    ]
    params = composer.hydra(fixed).sweeper.get("params") or {}
    swept = parser.parse_overrides([f"{name}={value}" for name, value in params.items()])
    swept += [each for each in parsed if not each.is_hydra_override()]
    space = {o.get_key_element(): o for o in swept if o.is_sweep_override()}
    plain = {o.get_key_element() for o in swept if not o.is_sweep_override()}
    space = {name: override for name, override in space.items() if name not in plain}
    if any(not override.is_discrete_sweep() for override in space.values()):
        return fixed, [], space  # an interval: only a search can draw from it
    batches = BasicSweeper.split_arguments(swept, None)
    return fixed, [list(cell) for batch in batches for cell in batch], space


def ignored(error: ConfigError, keys: Iterable[str]) -> list[str]:
    """Those of the keys that a refused configuration would ignore."""
    said = " ".join(p.what for p in error.problems if "would be ignored" in p.what)
    named = {a or b for a, b in re.findall(r"`([\w.]+)`|([\w.]+)=", said)}
    return [key for key in keys if key in named]


def fitted(composer: Composer, cells: Sequence[list[str]]) -> list[list[str]]:
    """The cells' words without those that a cell would ignore and another cell uses.

    `calib_size=8` means the quantized cells of `quant=none,int8`. What no cell uses stays, and is
    refused.
    """
    found = [_used(composer, words) for words in cells]
    meant = {word for used in found for word in used or ()}
    return [
        used if used is not None and meant.issuperset({*words} - {*used}) else words
        for words, used in zip(cells, found, strict=True)
    ]


def _used(composer: Composer, words: list[str]) -> list[str] | None:
    """The words that a cell does not ignore; None where something else is wrong with it."""
    while True:
        try:
            composer.config(words)
        except ConfigError as error:
            bad = ignored(error, (word.partition("=")[0] for word in words))
            if not bad:
                return None
            words = [word for word in words if word.partition("=")[0] not in bad]
        else:
            return words


def differing(cells: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each cell's words without those that all share."""
    common = set.intersection(*(set(words) for words in cells)) if len(cells) > 1 else set()
    return [[word for word in words if word not in common] for words in cells]


def varying(cells: Sequence[Sequence[str]]) -> list[str]:
    """The keys in which the cells differ, in their order."""
    words = [word for cell in differing(cells) for word in cell]
    return list(dict.fromkeys(word.partition("=")[0] for word in words)) if len(cells) > 1 else []


def baseline_key(config: Config) -> str | None:
    """Key of the unquantized baseline that a cell needs, if it needs one."""
    if not has_baseline(config):
        return None
    return identity.identity(baseline_of(config))


def _estimate(config: Config) -> float | None:
    try:
        return estimate.seconds(config, len(prompts.load(config.dataset, config.limit)))
    except UserError:  # missing captions: the cell itself will say so
        return None
