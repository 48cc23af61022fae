"""One cell: measure it beside its unquantized baseline, write the record, track it.

The cells of a sweep share what they have in common, also when they run in several processes: a
baseline is measured once, and whoever wants what another process is measuring waits for its record.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable
from pathlib import Path

from sdxl.config.derive import baseline_of, has_baseline, quantized_only
from sdxl.config.schema import QUANT_KEYS, Config
from sdxl.config.words import typed
from sdxl.core import disk, ends
from sdxl.core.command import Outcome
from sdxl.core.progress import Say
from sdxl.run import identity, ledger, outcomes, shared
from sdxl.run.attempt import (
    Context,
    beside_baseline,
    end_without,
    measure_one,
    other_run,
    recall,
    turn,
    without,
)  # fmt: skip
from sdxl.run.audit import audit


def run(config: Config, out_dir: Path, say: Say | None = None) -> Outcome:
    """Measure `config`; every way it can end leaves a record, written before MLflow hears of it."""
    if config.plan:
        from sdxl.run.plan import show_plan

        return show_plan(config, out_dir)
    if shared.of_cell(out_dir):  # perhaps in a launcher's process
        ends.begun()
    disk.store_ready()
    record = identity.new(config)
    sweep = shared.of_cell(out_dir)
    context = Context(ledger.policy_of(config, multirun=sweep is not None), sweep, say)
    if found := recall(record.key, context):
        return outcomes.take_over(out_dir, *found, config.cost)
    if config.compliance:
        return audit(config, out_dir, record, context)
    judge: Callable[[], None] | None = None
    if has_baseline(config):
        command = without_quantization(record.command, config)
        baseline = other_run(baseline_of(config), out_dir / "baseline", command, context, True)
        if isinstance(baseline, Outcome):
            because = f"the unquantized baseline: {baseline.reason}"
            return end_without(config, out_dir, record, context, baseline, because)
        judge = functools.partial(beside_baseline, config, record, out_dir, baseline)
    with turn(record.key, context) as known:
        if known:
            return outcomes.take_over(out_dir, *known, config.cost)
        return measure_one(config, out_dir, record, context, judge)


def without_quantization(command: str, config: Config) -> str:
    """The line that measures the baseline alone, also of a cell that an overlay describes."""
    baseline = baseline_of(config)
    both = {key: (getattr(config, key), None) for key in QUANT_KEYS}
    for name in quantized_only(config):
        both[f"backend.{name}"] = getattr(config.backend, name), getattr(baseline.backend, name)
    words = without(command, "quant", "shortcut", *both)
    overlay = any(word.startswith("+") for word in words)  # it may set what was typed, too
    given = {word.partition("=")[0] for word in shlex.split(command) if not overlay}
    overlaid = [
        typed(key, usual)
        for key, (value, usual) in both.items()
        if key not in given and value != usual
    ]
    return " ".join([shlex.join([*words, "quant=none"]), *overlaid])
