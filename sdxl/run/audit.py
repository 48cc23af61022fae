"""An audit of MLPerf's, around its measurements."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from pathlib import Path

from sdxl.bench.mlperf import compliance, verdict
from sdxl.config import schema
from sdxl.config.derive import plain_of, timed_only
from sdxl.config.rules import MLPERF_PROMPTS
from sdxl.config.schema import Compliance, Config, Mode, Rerun, Rules
from sdxl.core import records
from sdxl.core.command import Outcome
from sdxl.core.errors import UserError
from sdxl.core.record import Record
from sdxl.run import identity, ledger
from sdxl.run.attempt import Context, end_without, measure_one, other_run, without


def _pictures_first(config: Config, record: Record) -> bool:
    """Whether an official TEST01 is asked for; `UserError` if no accuracy run of its work will do.

    One made on the way, without official scores and whole pictures, would cost a second pass.
    """
    quick = config.scenario.min_duration_ms < verdict.OFFICIAL_MS
    if quick or config.rules is Rules.open:
        return False
    known = ledger.partner(identity.pair_key(config), Mode.accuracy)
    if known and known[1].status == "ok" and known[1].config.get("submission"):
        return True
    words = shlex.join(_untimed(without(record.command, "compliance", "mode", "quality"), config))
    raise UserError(
        "an official TEST01 needs the accuracy run of this work first, with whole pictures",
        f"{known[0]} without them" if known else "none that was measured here with this code",
        "an accuracy run that the submission takes, too",
        f"{words} mode=accuracy quality=mlperf submission=true",
    )


def _untimed(words: list[str], config: Config) -> list[str]:
    """The words without what accuracy mode refuses, typed or of an overlay."""
    names = timed_only(config.scenario.name)
    typed = {word.partition("=")[0] for word in words}
    values = {name: functools.reduce(getattr, name.split("."), config) for name in names}
    if values.get("scenario.min_query_count") == MLPERF_PROMPTS:
        del values["scenario.min_query_count"]  # the official number, which serves both modes
    overlaid = [n for n, value in values.items() if n not in typed and value is not None]
    return [*without(shlex.join(words), *names), *(f"{name}=null" for name in overlaid)]


def audit(config: Config, out_dir: Path, record: Record, context: Context) -> Outcome:
    """Run one of MLPerf's audits; the ordinary runs it needs are measured if there are none."""
    test = config.compliance
    assert test
    official = test is Compliance.test01 and _pictures_first(config, record)
    plain: dict[Mode, Path] = {}
    context = dataclasses.replace(context, policy=config.rerun or Rerun.failed)
    for mode in (Mode.performance, Mode.accuracy)[: 2 if test is Compliance.test01 else 1]:
        if mode is Mode.accuracy and (official or context.policy is not Rerun.all):
            # Any accuracy run of the same work will do; a timed one must have the same settings.
            known = ledger.partner(identity.pair_key(config), mode)
            if known and known[1].status == "ok":
                plain[mode] = known[0]
                continue
        words = without(record.command, "compliance", "mode")
        if mode is Mode.accuracy:
            words = _untimed(words, config)
        command = shlex.join([*words, f"mode={mode.value}"])
        found = other_run(plain_of(config, mode), out_dir / mode.value, command, context)
        if isinstance(found, Outcome):
            because = f"the {mode.value} run: {found.reason}"
            return end_without(config, out_dir, record, context, found, because)
        plain[mode] = found

    if isinstance(config.scenario, schema.Server) and not config.scenario.target_qps:
        # Two warm-ups would give two rates, and the scores are to be compared.
        seen = records.read(plain[Mode.performance]).performance.settings
        config.scenario.target_qps = seen["server_target_qps"]

    def judge() -> None:
        speed, accuracy = plain[Mode.performance], plain.get(Mode.accuracy)
        place = out_dir / "compliance"
        gates = compliance.verify(test, record, out_dir, speed, accuracy, place)
        record.verdict += [gate.row() for gate in gates]
        reasons = [record.reason, verdict.invalid_because(gates)]
        record.reason = "; ".join(filter(None, reasons))
        record.status = "invalid" if record.reason else "ok"
        used = {mode.value: str(path) for mode, path in plain.items()}
        record.performance.compliance = {"test": compliance.name_of(test), "against": used}

    return measure_one(config, out_dir, record, context, judge)
