"""One cell: measure it beside its unquantized twin, write the record, track it.

The cells of a sweep share what they have in common, also when they run in several processes: a
twin is measured once, and whoever wants what another process is measuring waits for its record.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import shlex
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdxl.cli import Outcome
from sdxl.config import schema
from sdxl.config.load import QUANT_KEYS, backend_modules, quality_modules
from sdxl.config.schema import Compliance, Config, Format, Mode, Rerun
from sdxl.core import isolate
from sdxl.core.errors import FAILED, INVALID, OK, SdxlError, one_line, show
from sdxl.core.store import disk_error
from sdxl.core.types import Record
from sdxl.run import identity, ledger, outcomes, shared
from sdxl.run.measure import SHEET_IMAGES, measure
from sdxl.run.shared import Shared


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after the record was written; `outcome` is the JSON line."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("interrupted")
        self.outcome = outcome


def run(config: Config, out_dir: Path) -> Outcome:
    """Measure `config`; every way it can end leaves a record, written before MLflow hears of it."""
    if config.plan:
        from sdxl.run.plan import show_plan

        return show_plan(config)
    if threading.current_thread() is threading.main_thread():  # a launcher may have others
        signal.signal(signal.SIGTERM, _interrupt)
    record = identity.new(config)
    sweep = shared.of_cell(out_dir)
    policy = ledger.policy_of(config, multirun=sweep is not None)
    if found := ledger.recall(record.key, policy, sweep.started if sweep else ""):
        return outcomes.take_over(out_dir, *found)
    if config.compliance:
        return _audit(config, out_dir, record, sweep)
    judge: Callable[[], None] | None = None
    if config.quant.format is not Format.none and config.quality.twin:
        settings = (f"backend.{name}" for name in _quantized_only(config))
        words = _without(record.command, "quant", *QUANT_KEYS, *settings)
        command = shlex.join([*words, "quant=none"])
        twin, failure = _other(twin_of(config), out_dir / "twin", command, policy, sweep)
        if not twin:
            return {**failure, "reason": f"the unquantized twin: {failure['reason']}"}
        judge = functools.partial(_compare, config, record, out_dir, twin)
    with _turn(record.key, policy, sweep) as known:
        if known:
            return outcomes.take_over(out_dir, *known)
        return _one(config, out_dir, record, sweep, judge)


def twin_of(config: Config) -> Config:
    """The same configuration without quantization."""
    twin = copy.deepcopy(config)
    twin.quant = schema.Quant("none")
    for name in _quantized_only(config):
        fields = {field.name: field for field in dataclasses.fields(twin.backend)}
        setattr(twin.backend, name, fields[name].default)
    for name in QUANT_KEYS:
        setattr(twin, name, None)
    return twin


def _quantized_only(config: Config) -> tuple[str, ...]:
    """The backend's settings that mean nothing to an unquantized model."""
    return getattr(backend_modules()[config.backend.name], "QUANTIZED_ONLY", ())


def plain_of(config: Config, mode: Mode) -> Config:
    """The ordinary run of the same work that an audit is judged against."""
    plain = copy.deepcopy(config)
    plain.compliance, plain.mode = None, mode
    if mode is Mode.accuracy:
        plain.quality.keep_images = None
        if isinstance(plain.scenario, schema.Offline):
            plain.scenario.target_qps = plain.scenario.min_query_count = None
    return plain


def _audit(config: Config, out_dir: Path, record: Record, sweep: Shared | None) -> Outcome:
    """Run one of MLPerf's audits; the ordinary runs it needs are measured if there are none."""
    from sdxl.bench.mlperf import compliance, verdict

    test = config.compliance
    assert test
    plain: dict[Mode, Path] = {}
    policy = config.rerun or Rerun.failed
    for mode in (Mode.performance, Mode.accuracy)[: 2 if test is Compliance.test01 else 1]:
        if mode is Mode.accuracy and policy is not Rerun.all:
            # Any accuracy run of the same work will do; a timed one must have the same settings.
            known = ledger.partner(identity.pair_key(config), mode)
            if known and known[1].status == "ok":
                plain[mode] = known[0]
                continue
        words = _without(record.command, "compliance", "mode")
        command = shlex.join([*words, f"mode={mode.value}"])
        found, failure = _other(
            plain_of(config, mode), out_dir / mode.value, command, policy, sweep
        )
        if not found:
            return {**failure, "reason": f"the {mode.value} run: {failure['reason']}"}
        plain[mode] = found

    if isinstance(config.scenario, schema.Server) and not config.scenario.target_qps:
        # Two warm-ups would give two rates, and the scores are to be compared.
        seen = identity.read(plain[Mode.performance]).performance["settings"]
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
        record.performance["compliance"] = {"test": compliance.name_of(test), "against": used}

    return _one(config, out_dir, record, sweep, judge)


@contextmanager
def _turn(key: str, policy: Rerun, sweep: Shared | None) -> Iterator[tuple[Path, Record] | None]:
    """The record that stands for a measurement; None: it is this process's turn to make one."""
    since = sweep.started if sweep else ""
    if found := ledger.recall(key, policy, since):
        yield found
    elif sweep:
        with ledger.turn(key):
            yield ledger.recall(key, policy, since)
    else:
        yield None


def _other(
    config: Config, folder: Path, command: str, policy: Rerun, sweep: Shared | None
) -> tuple[Path | None, Outcome]:
    """The record of a run that this cell needs, measured now unless there is one; or why not."""
    record = identity.new(config)
    with _turn(record.key, policy, sweep) as found:
        if found and found[0].parent.resolve() == folder.parent.resolve():
            # It lies in this cell's own folder, which is about to be cleared: it moves.
            outcomes.take_over(folder, *found)
            ledger.remember(found[1], folder / "record.json")
            return folder / "record.json", {}
        if found:
            return found[0], {}
        record.command = command
        outcome = _one(config, folder, record, sweep)
    if outcome["exit_code"] in (OK, INVALID):
        return Path(outcome["record"]), {}
    return None, outcome


def _without(command: str, *keys: str) -> list[str]:
    """The command's words but those that set one of `keys`, a group's or a single setting's."""
    words = [(word, word.split("=")[0]) for word in shlex.split(command)]
    return [word for word, key in words if not {key, key.split(".")[0]} & {*keys}]


def _one(
    config: Config,
    folder: Path,
    record: Record,
    sweep: Shared | None,
    judge: Callable[[], None] | None = None,
) -> Outcome:
    """Measure, `judge` beside other runs, write, show, track."""
    exit_code = FAILED
    error: BaseException | None = None
    try:
        measure(config, folder, record)
        if judge:
            judge()
        exit_code = outcomes.EXIT_CODES[record.status]
    except (SdxlError, OSError) as found:
        if isinstance(found, OSError):
            said, trace = disk_error(found, folder, "hydra.run.dir=FOLDER"), traceback.format_exc()
        else:
            said, trace = found, getattr(found, "trace", "")
        error, exit_code = said, said.exit_code
        record.status = "timeout" if isinstance(said, isolate.WorkerStalled) else "failed"
        record.reason = one_line(said.problems)
        if trace:
            record.environment["traceback"] = trace
        show(said)
    except KeyboardInterrupt as found:
        error = found
        record.status, record.reason = "failed", "interrupted"
    except Exception as found:  # ours to mend, but the record comes first
        traceback.print_exc()
        exit_code = FAILED
        record.status, record.reason = "failed", f"{type(found).__name__}: {found}"
        record.environment["traceback"] = traceback.format_exc()
    interrupted = isinstance(error, KeyboardInterrupt)
    outcome = outcomes.finish(config, folder, record, exit_code, sweep, interrupted)
    if interrupted:
        raise Interrupted(outcome)
    return outcome


def _compare(config: Config, record: Record, folder: Path, twin_path: Path) -> None:
    """Speed and pictures beside the unquantized twin's."""
    from sdxl.model.images import load, twin_sheet
    from sdxl.quality.twin import compare

    twin = identity.read(twin_path)
    theirs = {image["index"]: image for image in twin.images}
    pairs = [(theirs[image["index"]], image) for image in record.images if image["index"] in theirs]
    files = [(twin_path.parent / one["file"], folder / other["file"]) for one, other in pairs]
    pictures = [load(one) for one, _ in files], [load(other) for _, other in files]
    found = compare(*pictures)
    if more := getattr(quality_modules().get(config.quality.name), "against_twin", None):
        found |= more(config, *pictures)
    shown = slice(SHEET_IMAGES)
    captions = [image["caption"] for image, _ in pairs]
    twin_sheet(files[shown], captions[shown], folder / "twins.png")
    record.quality["twin"] = {"record": str(twin_path), **found}
    ours, base = (p.get("images_per_second") for p in (record.performance, twin.performance))
    if ours and base:
        record.performance["twin_images_per_second"] = base
        record.performance["speed_up"] = ours / base


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
