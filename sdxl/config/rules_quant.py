"""The rules of quantization settings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from sdxl.config import schema
from sdxl.config.schema import Calls, Config, Format
from sdxl.config.usual import changed
from sdxl.config.words import typed
from sdxl.core.errors import Problem


def problems_of(c: Config) -> Iterator[Problem]:
    """Broken rules of `config.quant` and of the top-level keys that override it."""
    rules: list[Callable[[Config], Iterator[Problem]]] = [
        _calibration,
        _patterns,
        _level,
        _linear_ranges,
        _target,
        _nothing_to_tune,
        _ignored,
        _ignored_calibration,
        _tuned,
    ]
    for rule in rules:
        yield from rule(c)


def _calibration(c: Config) -> Iterator[Problem]:
    q = c.quant
    if q.format is not Format.none and int(q.percentile * c.model.steps) < 1:
        yield Problem(
            "`percentile` leaves no denoising step to calibrate on",
            f"{q.percentile:g} of {c.model.steps} steps",
            f"at least {1 / c.model.steps:g}",
        )


def _patterns(c: Config) -> Iterator[Problem]:
    for name in ("include", "exclude", "alpha_only"):
        patterns = getattr(c.quant, name) or []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                glob = typed(f"quant.{name}", [pattern.replace("*", ".*")])
                yield Problem(
                    f"`quant.{name}` has a broken regular expression",
                    pattern,
                    str(error),
                    glob if pattern.startswith("*") else None,
                )


def _level(c: Config) -> Iterator[Problem]:
    """Levels whose layers the format cannot quantize."""
    q = c.quant
    if q.level == 4 and q.format not in (Format.fp8, Format.none):
        yield Problem(
            "level 4 quantizes attention, which exists in FP8 only",
            f"quant_level=4 with {q.format.value}",
            "levels 1 to 3, or FP8",
            "quant=fp8 quant_level=4",
        )
    if q.format is Format.int4_weight_only and q.level == 1 and not q.include:
        yield Problem(
            "level 1 is convolutions only, and INT4 blocks exist for Linear weights only",
            "quant_level=1",
            "level 2, 2.5 or 3",
            f"quant={q.name} quant_level=2",
        )


def _linear_ranges(c: Config) -> Iterator[Problem]:
    q = c.quant
    if not q.linear_ranges:
        return
    if q.calls not in (Calls.max, Calls.min):
        yield Problem(
            "Linear inputs keep the largest and the smallest amax over calls, not their sum",
            f"quant.linear_ranges=true quant.calls={q.calls.value}",
            "quant.calls=max or quant.calls=min",
        )
    if q.calls is Calls.min and not _smoothed(q):
        yield Problem(
            "the smallest amax of a whole Linear input is not kept, only that of its channels",
            "quant.linear_ranges=true quant.calls=min without SmoothQuant",
            "quant.smooth=true with INT8, or quant.calls=max",
        )


def _target(c: Config) -> Iterator[Problem]:
    q = c.quant
    if q.format is Format.auto_mixed and not (q.target and q.target > 0):
        yield Problem(
            "`target` bounds the combined relative output error", str(q.target), "more than 0",
            "quant=auto_mixed target=0.2",
        )  # fmt: skip


def _nothing_to_tune(c: Config) -> Iterator[Problem]:
    q = c.quant
    if q.format is Format.none and q.tuned:
        yield Problem(
            "`quant.tuned` would be ignored: nothing is quantized", f"quant={q.name}",
            "the recipe that the training began with",
        )  # fmt: skip


def _ignored(c: Config) -> Iterator[Problem]:
    """Settings that a recipe would silently ignore."""
    q = c.quant
    if q.format is Format.none:
        return
    if q.target is not None and q.format is not Format.auto_mixed:
        yield Problem(
            "`target` would be ignored", f"quant={q.name}", "auto_mixed", "quant=auto_mixed"
        )
    if "block_size" in changed("quant", q) and q.format is not Format.int4_weight_only:
        yield Problem(
            "`quant.block_size` would be ignored: only INT4 has blocks",
            f"quant={q.name}",
            "INT4",
            f"quant=int4_weight_only quant.block_size={q.block_size}",
        )
    if c.alpha is not None and not _smoothed(q):
        yield Problem(
            "`alpha` would be ignored: this recipe does not smooth activations",
            f"quant={q.name}",
            "a SmoothQuant recipe",
            "quant=int8",
        )


def _ignored_calibration(c: Config) -> Iterator[Problem]:
    """Settings of a calibration that does not happen."""
    q = c.quant
    if q.format.weight_only:
        for key in ("percentile", "calib_size"):
            if getattr(c, key) is not None:
                yield Problem(
                    f"`{key}` would be ignored: weight-only formats need no calibration",
                    f"quant={q.name}",
                    "an activation format",
                    "quant=int8",
                )
        if q.statistics:
            yield Problem(
                "`quant.statistics` would be ignored: weight-only formats need no calibration",
                f"quant={q.name}",
                "quant.statistics=null",
            )
    if q.statistics and q.format is not Format.none and c.calib_size is not None:
        yield Problem(
            "`calib_size` would be ignored: the statistics come from a file",
            f"quant.statistics={q.statistics}",
            "one of both",
        )


def _tuned(c: Config) -> Iterator[Problem]:
    q = c.quant
    if q.tuned and q.modelopt and q.format is not Format.none:
        yield Problem(
            "a tuned checkpoint has no copy in ModelOpt's own form",
            "quant.tuned with quant.modelopt=true",
            "one of both",
            "quant.modelopt=false",
        )


def _smoothed(q: schema.Quant) -> bool:
    return q.format in (Format.int8, Format.auto_mixed) and q.smooth
