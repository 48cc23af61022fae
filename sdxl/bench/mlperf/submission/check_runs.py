"""The runs of a submission's tree: timed, scored, audited."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.bench import logs
from sdxl.bench.mlperf import rounds, verdict
from sdxl.bench.mlperf.submission.truncate import LARGEST
from sdxl.config.schema import Round
from sdxl.core.errors import SdxlError

DETAIL, SUMMARY = LOGS = ("mlperf_log_detail.txt", "mlperf_log_summary.txt")
HASH = re.compile(r"^hash=([\w\d]+)$", re.MULTILINE)
INFERRED = {
    ("SingleStream", "MultiStream"),
    ("MultiStream", "Offline"),
    ("SingleStream", "Offline"),
}
"""On edge systems the first scenario's run may stand in the second's folder."""
TEST01_UNEQUAL = {"CLIP_SCORE": 1.0, "FID_SCORE": 2.0}
"""Percent by which scores may differ where TEST01's answers are not equal byte by byte."""
UNEQUAL_FILES = ("baseline_accuracy.txt", "compliance_accuracy.txt")


@dataclass(frozen=True)
class Complaint:
    """One rule that a file or folder breaks."""

    path: Path
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


@dataclass(frozen=True)
class Rules:
    """By what a system's results are judged."""

    round: Round
    division: str
    system_type: str

    @property
    def table(self) -> rounds.Rules:
        """What the round publishes."""
        return rounds.rules_of(self.round)

    def allows(self, ran: Any, scenario: str) -> bool:
        """Whether a run of LoadGen's scenario `ran` may stand as `scenario`."""
        inferred = (ran, scenario) in INFERRED and "edge" in self.system_type
        return ran == scenario or inferred


def performance(place: Path, scenario: str, rules: Rules) -> Iterator[Complaint]:
    """A timed run: VALID, without errors, with the round's seeds and settings."""
    detail = yield from _detail(place)
    if detail is None:
        return
    ran = detail.get("effective_scenario")
    if not rules.allows(ran, scenario):
        yield Complaint(place, f"is a run of {ran}")
        return
    valid, reason = logs.verdict(detail, accuracy=False)
    if not valid:
        yield Complaint(place, f"INVALID: {reason}")
    if ran != scenario and not detail.get("result_qps_without_loadgen_overhead"):
        yield Complaint(place, f"{scenario} cannot be inferred: the log has no rate of {ran}")
    try:
        gates = verdict.performance_settings(str(ran), detail, rules.division)
    except KeyError as error:
        yield Complaint(place, f"{DETAIL} has no {error}")
        return
    except (TypeError, ValueError) as error:
        yield Complaint(place, f"{DETAIL} has something else than a number: {error}")
        return
    gates.append(verdict.seeds(rules.round, rules.table.seeds, detail))
    for gate in gates:
        if not gate.passed:
            yield Complaint(place, f"{gate.gate}: {gate.measured}, required {gate.required}")


def accuracy(place: Path, scenario: str, rules: Rules) -> Iterator[Complaint]:
    """The scored run: every prompt, both scores, the cut log, the round's pictures."""
    detail = yield from _detail(place)
    if detail is not None:
        yield from _accuracy_run(place, scenario, rules, detail)
    yield from _short_log(place)
    yield from _scores(place / "accuracy.txt", rules)
    for index in rules.table.image_ids if rules.table.images else ():
        if not (place / "images" / f"{index}.png").is_file():
            yield Complaint(place / "images" / f"{index}.png", "missing")


def _accuracy_run(
    place: Path, scenario: str, rules: Rules, detail: dict[str, Any]
) -> Iterator[Complaint]:
    """What LoadGen's own log says of the run."""
    if not rules.allows(ran := detail.get("effective_scenario"), scenario):
        yield Complaint(place, f"is a run of {ran}")
    for message in detail["errors"]:
        yield Complaint(place, f"LoadGen error: {message}")
    for gate in verdict.accuracy_settings(detail):
        if not gate.passed:
            yield Complaint(place, f"{gate.gate}: {gate.measured}, required {gate.required}")


def _scores(told: Path, rules: Rules) -> Iterator[Complaint]:
    """The pictures' hash, and both scores within the bounds of the closed divisions."""
    if not HASH.search(_text(told)):
        yield Complaint(told, "no line hash=...")
    found = scores(told, rules.table.quoted)
    for name, bounds in (("FID_SCORE", rules.table.fid), ("CLIP_SCORE", rules.table.clip)):
        if name not in found:
            yield Complaint(told, f"no {name}")
        elif rules.division != rounds.OPEN and not bounds.low <= found[name] <= bounds.high:
            yield Complaint(told, f"{name} {found[name]}, required {bounds.low} to {bounds.high}")


def scores(told: Path, quoted: bool = True) -> dict[str, float]:
    """The scores of an accuracy.txt as official checkers find them; earlier ones take no quotes."""
    found: dict[str, float] = {}
    for name in ("FID_SCORE", "CLIP_SCORE"):
        mark = "'?" if quoted else ""
        match = re.search(rf"'{name}':\s+{mark}([\d.]+)", _text(told))
        try:
            found |= {name: float(match[1])} if match else {}
        except ValueError:  # 31.7.4
            continue
    return found


def audits(place: Path, scenario: str, rules: Rules) -> Iterator[Complaint]:
    """TEST01 and TEST04 with what each must leave, both passed."""
    for name in rounds.CLOSED_TESTS:
        folder = place / name
        yield from _passed(folder / "verify_performance.txt")
        if name == "TEST01":
            yield from _answers(folder, rules)
        timed = folder / "performance" / "run_1"
        yield from performance(timed, scenario, rules)
        known = {*LOGS, "mlperf_log_trace.json", "mlperf_log_accuracy.json"}
        extra = {p.name for p in timed.glob("*")} - known
        yield from (Complaint(timed / file, "has no place here") for file in sorted(extra))
        if (folder / "accuracy").is_dir():
            yield from _short_log(folder / "accuracy")


def _answers(folder: Path, rules: Rules) -> Iterator[Complaint]:
    """TEST01's answers are equal, or (its third part) their scores are."""
    accuracy = folder / "accuracy"
    if all((accuracy / name).is_file() for name in UNEQUAL_FILES):
        before, after = (scores(accuracy / name, rules.table.quoted) for name in UNEQUAL_FILES)
        for name, percent in TEST01_UNEQUAL.items():
            if not before.get(name) or not after.get(name):
                yield Complaint(accuracy, f"no {name} in both of {' and '.join(UNEQUAL_FILES)}")
            elif (apart := abs(1 - before[name] / after[name]) * 100) > percent:
                yield Complaint(accuracy, f"{name} differs by {apart:.2f} %, at most {percent:g} %")
        if not (folder / "verify_accuracy.txt").is_file():
            yield Complaint(folder / "verify_accuracy.txt", "missing or empty")
        return
    yield from _passed(folder / "verify_accuracy.txt")


def _passed(path: Path) -> Iterator[Complaint]:
    lines = _text(path).splitlines()
    if not lines:
        yield Complaint(path, "missing or empty")
    elif "TEST PASS" not in map(str.strip, lines):
        yield Complaint(path, "does not say TEST PASS")


def _short_log(place: Path) -> Iterator[Complaint]:
    path = place / "mlperf_log_accuracy.json"
    if not path.is_file():
        yield Complaint(path, "missing")
    elif (size := path.stat().st_size) > LARGEST:
        yield Complaint(path, f"not truncated: {size:,} bytes, at most {LARGEST:,}")


def _detail(place: Path) -> Any:
    """LoadGen's detail log, or None after a complaint."""
    missing = [name for name in LOGS if not (place / name).is_file()]
    yield from (Complaint(place / name, "missing") for name in missing)
    if missing:
        return None
    yield from _strange(place / DETAIL)
    try:
        return logs.read(place)["detail"]
    except SdxlError as error:
        yield Complaint(place, str(error).splitlines()[0])
        return None


def _strange(path: Path) -> Iterator[Complaint]:
    """Lines that the official parser stops at, and results told twice, of which it takes the first.

    Ours passes over such lines, since a killed process leaves them.
    """
    lines = _text(path).splitlines()
    if not lines or not lines[0].startswith(logs.MARK):
        yield Complaint(path, f"does not begin with {logs.MARK}")
    results: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        if not line.startswith(logs.MARK):
            continue
        try:
            entry = json.loads(line.removeprefix(logs.MARK))
            key, value = entry["key"], entry["value"]
        except (ValueError, KeyError, TypeError):
            yield Complaint(path, f"line {number} is no entry of LoadGen's")
            continue
        told = key.startswith(("result_", "effective_", "early_"))
        if told and results.setdefault(key, value) != value:
            yield Complaint(path, f"line {number} says {key} again: {value}")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
