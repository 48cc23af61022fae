"""Does a tree keep the rules of a round? Written from the rules, not from the code that builds it.

Stricter than the official checker where that lets things pass: INVALID results, LoadGen's errors,
audits without their files. Needs nothing but the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.bench import logs
from sdxl.bench.mlperf import rounds, verdict
from sdxl.bench.mlperf.submission import systems
from sdxl.bench.mlperf.submission.truncate import LARGEST
from sdxl.config.schema import Round
from sdxl.core import json_file
from sdxl.core.errors import SdxlError

DIVISIONS = ("closed", "open", "network")
MEASURED = (
    "input_data_types", "retraining", "starting_weights_filename", "weight_data_types",
    "weight_transformations",
)  # fmt: skip
"""Keys of measurements.json, none of them empty."""
LOGS = ("mlperf_log_detail.txt", "mlperf_log_summary.txt")
HASH = re.compile(r"^hash=([\w\d]+)$", re.MULTILINE)
SCORES = {
    "FID_SCORE": re.compile(r".*'FID_SCORE':\s+'?([\d.]+).*"),
    "CLIP_SCORE": re.compile(r".*'CLIP_SCORE':\s+'?([\d.]+).*"),
}
"""How the official checker finds the scores in accuracy.txt."""


@dataclass(frozen=True)
class Complaint:
    """One rule that a file or folder breaks."""

    path: Path
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def check(root: Path, which: Round) -> list[Complaint]:
    """Everything that is wrong with the submissions below `root`, sorted by path."""
    found = list(_root(root, which))
    return sorted(found, key=lambda each: str(each.path))


def _root(root: Path, which: Round) -> Iterator[Complaint]:
    submitters = [path for name in DIVISIONS for path in _folders(root / name)]
    if not submitters:
        yield Complaint(root, f"no submission: nothing in {', '.join(DIVISIONS)}")
    for place in _folders(root):
        if place.name not in DIVISIONS:
            yield Complaint(place, f"a division is one of {', '.join(DIVISIONS)}")
    for submitter in submitters:
        yield from _submitter(submitter, which)


def _submitter(place: Path, which: Round) -> Iterator[Complaint]:
    source = place / rounds.rules_of(which).layout.source
    if not source.is_dir():
        yield Complaint(source, "missing: the source of the implementation")
    results = _folders(place / "results")
    if not results:
        yield Complaint(place / "results", "missing: no system has results")
    for system in results:
        description = place / "systems" / f"{system.name}.json"
        facts = _json(description)
        if facts is None:
            yield Complaint(description, "missing or not a JSON object")
            continue
        yield from (Complaint(description, text) for text in systems.complaints(facts))
        for name, wanted in (("division", place.parent.name), ("submitter", place.name)):
            if str(facts.get(name)).lower() != wanted.lower():
                yield Complaint(description, f"{name} is {facts.get(name)}, the folder's {wanted}")
        yield from _system(place, system, str(facts.get("system_type")).lower(), which)


def _system(top: Path, place: Path, kind: str, which: Round) -> Iterator[Complaint]:
    rules = rounds.rules_of(which)
    for model in _folders(place):
        if model.name != rounds.MODEL:
            yield Complaint(model, f"not checked: only {rounds.MODEL} is known here")
    wanted = rules.scenarios.get(kind.replace(" ", ""))
    if wanted is None:
        yield Complaint(place, f"{which.value} takes no {rounds.MODEL} from {kind} systems")
        return
    folders = _folders(place / rounds.MODEL)
    present = {folder.name.lower(): folder for folder in folders}
    for name in wanted:
        if name.lower() not in present:
            yield Complaint(place / rounds.MODEL / name, f"missing: {kind} systems must have it")
    for folder in folders:
        scenario = next((n for n in wanted if n.lower() == folder.name.lower()), None)
        if scenario is None:
            yield Complaint(folder, f"unknown scenario; {kind} systems have {', '.join(wanted)}")
            continue
        words = {"system": place.name, "scenario": folder.name}
        notes = top / rules.layout.notes.format(**words)
        yield from _notes(notes, [rules.layout.measurement.format(**words)])
        yield from _performance(folder / "performance" / "run_1", scenario, which)
        yield from _power(folder / "performance" / "power")
        yield from _accuracy(folder / "accuracy", scenario, which, top.parent.name)
        if top.parent.name != "open":
            audits = top / rules.layout.compliance.format(**words)
            yield from _audits(audits, scenario, which)


def _notes(place: Path, measurements: list[str]) -> Iterator[Complaint]:
    for name in ("README.md", "user.conf"):
        if not (place / name).is_file():
            yield Complaint(place / name, "missing")
        elif not (place / name).stat().st_size:
            yield Complaint(place / name, "empty")
    for name in measurements:
        facts = _json(place / name)
        if facts is None:
            yield Complaint(place / name, "missing or not a JSON object")
            continue
        for key in MEASURED:
            if not facts.get(key):
                yield Complaint(place / name, f"{key} is missing or says nothing")


def _performance(place: Path, scenario: str, which: Round) -> Iterator[Complaint]:
    """A timed run: VALID, without errors, with the round's seeds and settings."""
    detail = yield from _detail(place)
    if detail is None:
        return
    if detail.get("effective_scenario") != scenario:
        yield Complaint(place, f"is a run of {detail.get('effective_scenario')}")
        return
    valid, reason = logs.verdict(detail, accuracy=False)
    if not valid:
        yield Complaint(place, f"INVALID: {reason}")
    try:
        gates = verdict.performance_settings(scenario, detail)
    except KeyError as error:
        yield Complaint(place, f"{LOGS[0]} has no {error}")
        return
    gates.append(verdict.seeds(which, rounds.rules_of(which).seeds, detail))
    for gate in gates:
        if not gate.passed:
            yield Complaint(place, f"{gate.gate}: {gate.measured}, required {gate.required}")


def _accuracy(place: Path, scenario: str, which: Round, division: str) -> Iterator[Complaint]:
    rules = rounds.rules_of(which)
    detail = yield from _detail(place)
    if detail is not None:
        yield from _accuracy_run(place, scenario, detail)
    yield from _short_log(place)
    yield from _scores(place / "accuracy.txt", rules, division)
    if rules.images:
        for index in rules.image_ids:
            if not (place / "images" / f"{index}.png").is_file():
                yield Complaint(place / "images" / f"{index}.png", "missing")


def _accuracy_run(place: Path, scenario: str, detail: dict[str, Any]) -> Iterator[Complaint]:
    """What LoadGen's own log says of the run."""
    if detail.get("effective_scenario") != scenario:
        yield Complaint(place, f"is a run of {detail.get('effective_scenario')}")
    for message in detail["errors"]:
        yield Complaint(place, f"LoadGen error: {message}")
    for gate in verdict.accuracy_settings(detail):
        if not gate.passed:
            yield Complaint(place, f"{gate.gate}: {gate.measured}, required {gate.required}")


def _scores(told: Path, rules: rounds.Rules, division: str) -> Iterator[Complaint]:
    """The pictures' hash, and both scores within the bounds of the closed divisions."""
    text = told.read_text() if told.is_file() else ""
    if not HASH.search(text):
        yield Complaint(told, "no line hash=...")
    for name, bounds in (("FID_SCORE", rules.fid), ("CLIP_SCORE", rules.clip)):
        score = next(filter(None, map(SCORES[name].match, text.splitlines())), None)
        if not score:
            yield Complaint(told, f"no {name}")
        elif division != "open" and not bounds.low <= float(score[1]) <= bounds.high:
            yield Complaint(told, f"{name} {score[1]}, required {bounds.low} to {bounds.high}")


def _audits(place: Path, scenario: str, which: Round) -> Iterator[Complaint]:
    """TEST01 and TEST04 with what each must leave, both passed."""
    for name in rounds.CLOSED_TESTS:
        told = ["verify_performance.txt", *(["verify_accuracy.txt"] if name == "TEST01" else [])]
        for file in told:
            path = place / name / file
            lines = path.read_text().splitlines() if path.is_file() else []
            if not lines:
                yield Complaint(path, "missing or empty")
            elif "TEST PASS" not in map(str.strip, lines):
                yield Complaint(path, "does not say TEST PASS")
        timed = place / name / "performance" / "run_1"
        yield from _performance(timed, scenario, which)
        extra = {p.name for p in timed.glob("*")} - {*LOGS, "mlperf_log_trace.json"}
        yield from (Complaint(timed / file, "has no place here") for file in sorted(extra))
        if (place / name / "accuracy").is_dir():
            yield from _short_log(place / name / "accuracy")


def _power(place: Path) -> Iterator[Complaint]:
    if place.is_dir() and not any(place.iterdir()):
        yield Complaint(place, "empty: a submission without power has no such folder")


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
    try:
        return logs.read(place)["detail"]
    except SdxlError as error:
        yield Complaint(place, str(error).splitlines()[0])
        return None


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return json_file.read_object(path)
    except (OSError, ValueError):
        return None
