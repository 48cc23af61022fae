"""What each number may be, so that none reaches LoadGen, a clock or an allocator that it breaks.

A number of a backend or a quality option has its range in the option's own `Config`: `RANGES`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sdxl.config.schema import QUANT_KEYS
from sdxl.core.errors import Problem


@dataclass(frozen=True)
class Range:
    """From `least` to `most`, both allowed unless `above` (more than) or `below` (less than).

    what: how a number outside is called; choices: the only ones in between.
    """

    least: float
    most: float
    above: bool = False
    below: bool = False
    what: str = ""
    choices: tuple[float, ...] = ()

    def holds(self, number: float) -> bool:
        """Whether the number is one of these; NaN never is."""
        inside = self.least <= number <= self.most
        edge = (self.above and number == self.least) or (self.below and number == self.most)
        return inside and not edge and (not self.choices or number in self.choices)

    def __str__(self) -> str:
        if self.choices:
            return "one of " + ", ".join(f"{choice:g}" for choice in self.choices)
        least = "more than" if self.above else "at least"
        most = "less than" if self.below else "at most"
        return f"{least} {_shown(self.least)}, {most} {_shown(self.most)}"

    def problem(self, key: str, number: float) -> Problem:
        """A number outside, in words."""
        if not math.isfinite(number):
            return Problem(f"`{key}` must be a finite number", f"{number}", str(self))
        small = "must be positive" if number <= 0 < self.least < 1 else "is too small"
        side = small if number <= self.least else "is too large"
        return Problem(f"`{key}` {self.what or side}", _shown(number), str(self))


def positive(most: float) -> Range:
    """More than 0, by as much as nanoseconds and rates can tell."""
    return Range(1e-6, most)


COUNT = Range(1, 1_000_000)
BATCH = Range(1, 65536)
"""Pictures that are in memory together."""
SECONDS = Range(1e-3, 2_000_000)
"""Three weeks: a wait in milliseconds has 31 bits in poll() and LoadGen 64 in nanoseconds."""
LATENCY_MS = Range(0, 1e9)
FRACTION = Range(0, 1, above=True, below=True, what="is a fraction")
GIB = positive(65536)

_OF_TYPE = {int: Range(-(2**31), 2**31 - 1), float: Range(-1e12, 1e12)}
"""Numbers of options that say nothing of theirs."""

RANGES: dict[str, Range] = {
    "limit": COUNT,
    "seed": Range(0, 2**32 - 1),
    "repeat": Range(1, 1000),
    "timeout_s": Range(1, SECONDS.most),
    "cost.per_hour": Range(0, 1e9),
    "tracking.timeout_s": Range(1, SECONDS.most),
    "model.height": Range(32, 8192, what="does not fit the UNet"),
    "model.width": Range(32, 8192, what="does not fit the UNet"),
    "model.steps": Range(1, 1000),
    "model.guidance": Range(0, 1000),
    "model.lora_scale": Range(-1000, 1000),
    "scheduler.eta": Range(0, 1, what="is a share"),
    "scheduler.original_steps": Range(1, 1000),
    "scheduler.sigma_min": positive(1e6),
    "scheduler.sigma_max": positive(1e6),
    "scheduler.sigma_data": positive(1e6),
    "shortcut.start": Range(0, 1, below=True, what="is a share of the steps"),
    "shortcut.until": Range(0, 1, above=True, what="is a share of the steps"),
    "shortcut.gate": Range(0, 1, above=True, below=True, what="is a share of the steps"),
    "shortcut.interval": Range(2, 1000),
    "shortcut.branch": Range(0, 100),
    "shortcut.ratio": Range(0, 0.75, above=True, what="is a share of the tokens"),
    "shortcut.levels": Range(1, 10),
    "shortcut.deep_steps": Range(0, 999),
    "quant.level": Range(1, 4, what="does not exist", choices=(1, 2, 2.5, 3, 4)),
    "quant.block_size": BATCH,
    "quant.alpha": Range(0, 1, what="is out of range"),
    "quant.percentile": Range(0, 1, above=True, what="is a fraction of the denoising steps"),
    "quant.calib_size": COUNT,
    "quant.report_prompts": Range(0, COUNT.most),
    "quant.target": positive(1000),
    "dataset.prompts": Range(1, 10_000),  # a minute's work
    "backend.batch_size": BATCH,
    "backend.devices": Range(0, 1023, what="names each device once, by a number from 0"),
    "backend.restarts": Range(0, 1_000_000),
    "scenario.min_duration_ms": Range(0, SECONDS.most * 1000),
    "scenario.min_query_count": Range(1, 100_000_000),
    "scenario.performance_sample_count": COUNT,
    "scenario.warmup_batches": Range(1, 10_000),
    "scenario.startup_s": positive(SECONDS.most),
    "scenario.stall_s": positive(SECONDS.most),
    "scenario.target_qps": positive(1_000_000),
    "scenario.warmup_qps_share": positive(1000),
    "scenario.target_latency_ms": positive(LATENCY_MS.most),
    "scenario.target_latency_percentile": FRACTION,
    "scenario.max_wait_ms": LATENCY_MS,
    "scenario.samples_per_query": BATCH,
    "scenario.rates": positive(1_000_000),
    "scenario.concurrencies": BATCH,
    "quality.keep_images": COUNT,
    "quality.reference_images": COUNT,
    "quality.reference_steps": Range(1, 1000),
    "export.opset": Range(1, 100),
    "train.scenes": Range(1, 100_000_000),
    "train.size": Range(8, 8192),
    "train.steps": Range(1, 1_000_000_000),
    "train.batch": BATCH,
    "train.lr": positive(100),
    "train.warmup_steps": Range(0, 1_000_000_000),
    "train.decay_share": Range(0, 1),
    "train.base_lr": Range(1e-12, 1),
    "train.beta1": Range(0, 1, below=True),
    "train.beta2": Range(0, 1, below=True),
    "train.epsilon": Range(1e-30, 1),
    "train.accumulate": COUNT,
    "train.dropped": Range(0, 1, below=True),
    "train.weight_decay": Range(0, 100),
    "train.clip_norm": positive(1e9),
    "train.ema": Range(0, 1, below=True),
    "train.eval_prompts": COUNT,
    "train.eval_steps": Range(1, 1000),
    "train.guidance": Range(0, 1000),
    "train.rank": Range(1, 65536),
    "train.alpha": positive(1e6),
    "train.checkpoint_s": Range(0, SECONDS.most),
    "train.evaluate_every": Range(1, 1_000_000_000_000),
    "train.keep_every": Range(1, 1_000_000_000_000),
    "train.eval_batch": BATCH,
    "train.max_s": Range(0, SECONDS.most),
}
"""By key, of everything that is no option's own; the top-level keys of `quant` have its ranges."""


@dataclass(frozen=True)
class Number:
    """A setting that is a number, or a list of them."""

    key: str
    kind: type
    range: Range | None


hints_of = functools.cache(typing.get_type_hints)
"""The types of a class's fields, by name."""


def numbers(node: type, prefix: str = "") -> Iterator[tuple[str, Number]]:
    """(name of the field, what it is) of every number of a schema's class, not of its groups."""
    own: dict[str, Range] = getattr(node, "RANGES", {})
    hints = hints_of(node)
    for field in dataclasses.fields(node):
        for kind in _parts(hints[field.name]) & {int, float}:
            key = f"{prefix}{field.name}"
            known = own.get(field.name) or RANGES.get(key)
            yield field.name, Number(key, kind, known)


def _parts(hint: Any) -> set[Any]:
    """A type and those it is made of: of `Optional[list[int]]` also `int`."""
    return {hint}.union(*map(_parts, typing.get_args(hint)))


def problems_of(node: Any, prefix: str = "") -> Iterator[Problem]:
    """Every number out of its range; it gets its default, so that further checks can go on."""
    found = dict(numbers(type(node), prefix))
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from problems_of(value, f"{prefix}{field.name}.")
        elif value is not None and field.name in found and (prefix or field.name not in QUANT_KEYS):
            yield from _outside(node, field, found[field.name])


def _outside(node: Any, field: dataclasses.Field[Any], number: Number) -> Iterator[Problem]:
    allowed = number.range or _OF_TYPE[number.kind]
    value = getattr(node, field.name)
    for each in value if isinstance(value, list) else [value]:
        if not allowed.holds(each):
            yield allowed.problem(_typed(number.key), each)
            setattr(node, field.name, None if isinstance(value, list) else _harmless(field, number))


def _harmless(field: dataclasses.Field[Any], number: Number) -> Any:
    """The default, or where that is no number the allowed one nearest to 1."""
    allowed, usual = number.range or _OF_TYPE[number.kind], field.default
    if isinstance(usual, int | float) and allowed.holds(usual):
        return usual
    return number.kind(max(allowed.least, min(allowed.most, 1)))


def _typed(key: str) -> str:
    """The key that people type: of a recipe's number the one at the top, where there is one."""
    group, _, name = key.partition(".")
    short = {field: top for top, field in QUANT_KEYS.items()}
    return short.get(name, key) if group == "quant" else key


def _shown(number: float) -> str:
    """Whole numbers as they are, up to where a float has them."""
    whole = isinstance(number, int) or (number.is_integer() and abs(number) < 1 << 53)
    return str(int(number)) if whole and abs(number) < 10**20 else f"{float(number):g}"
