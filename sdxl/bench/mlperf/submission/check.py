"""Does a tree keep the rules of a round? Written from the rules, not from the code that builds it.

Stricter than the official checker where that lets things pass: INVALID results, LoadGen's errors,
audits without their files. Needs nothing but the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdxl.bench.mlperf import rounds
from sdxl.bench.mlperf.submission import systems
from sdxl.bench.mlperf.submission.check_runs import Complaint, Rules, accuracy, audits, performance
from sdxl.config.schema import Round
from sdxl.core import json_file

DIVISIONS = ("closed", "open", "network")
MEASURED = (
    "input_data_types", "retraining", "starting_weights_filename", "weight_data_types",
    "weight_transformations",
)  # fmt: skip
"""Keys of measurements.json, none of them empty."""
BESIDE = (".md", ".pdf")
"""Endings of files that may lie beside the divisions' folders."""


def check(root: Path, which: Round) -> list[Complaint]:
    """Everything that is wrong with the submissions below `root`, sorted by path."""
    found = list(_root(root, which))
    return sorted(found, key=lambda each: str(each.path))


def _root(root: Path, which: Round) -> Iterator[Complaint]:
    submitters = [path for name in DIVISIONS for path in _folders(root / name)]
    if not submitters:
        yield Complaint(root, f"no submission: nothing in {', '.join(DIVISIONS)}")
    for place in _folders(root):
        if place.name not in DIVISIONS and not place.name.startswith("."):
            yield Complaint(place, f"a division is one of {', '.join(DIVISIONS)}")
    strays = [path for path in _files(root) if path.suffix not in BESIDE]
    strays += [path for name in DIVISIONS for path in _files(root / name)]
    for path in strays:
        yield Complaint(path, "has no place here: files lie in a submitter's folder")
    for submitter in submitters:
        yield from _submitter(submitter, which)


def _submitter(place: Path, which: Round) -> Iterator[Complaint]:
    division = place.parent.name
    source = place / rounds.rules_of(which).layout.source
    if not source.is_dir():
        yield Complaint(source, "missing: the source of the implementation")
    notes = [place / "calibration.md", place / "documentation" / "calibration.md"]
    if division != rounds.OPEN and not any(path.is_file() for path in notes):
        yield Complaint(notes[1], "missing: how numbers were made smaller, and on what data")
    results = _folders(place / "results")
    if not results:
        yield Complaint(place / "results", "missing: no system has results")
    names = {system.name for system in results}
    for path in sorted((place / "systems").glob("*.json")):
        if path.stem not in names:
            yield Complaint(path, "describes a system without results")
    for system in results:
        description = place / "systems" / f"{system.name}.json"
        facts = _json(description)
        if facts is None:
            yield Complaint(description, "missing or not a JSON object")
            continue
        yield from (Complaint(description, text) for text in systems.complaints(facts))
        for name, wanted in (("division", division), ("submitter", place.name)):
            if str(facts.get(name)).lower() != wanted.lower():
                yield Complaint(description, f"{name} is {facts.get(name)}, the folder's {wanted}")
        yield from _system(place, system, Rules(which, division, str(facts.get("system_type"))))


def _system(top: Path, place: Path, rules: Rules) -> Iterator[Complaint]:
    for model in _folders(place):
        if model.name != rounds.MODEL:
            yield Complaint(model, f"not checked: only {rounds.MODEL} is known here")
    if rules.division == "network":
        yield Complaint(place, "not checked: the network division is not known here")
    allowed = rounds.scenarios_of(rules.table, rules.system_type, rules.division)
    if allowed is None:
        told = f"{rules.round.value} takes no {rounds.MODEL} from {rules.system_type} systems"
        yield Complaint(place, told)
        return
    folders = _folders(place / rounds.MODEL)
    present = {folder.name.lower(): folder for folder in folders}
    for name in allowed if rules.division != rounds.OPEN else ():
        if name.lower() not in present:
            yield Complaint(
                place / rounds.MODEL / name, f"missing: {rules.system_type} systems must have it"
            )
    for folder in folders:
        scenario = next((n for n in allowed if n.lower() == folder.name.lower()), None)
        if scenario is None:
            told = f"unknown scenario; {rules.system_type} systems have {', '.join(allowed)}"
            yield Complaint(folder, told)
        else:
            yield from _scenario(top, folder, scenario, rules)


def _scenario(top: Path, folder: Path, scenario: str, rules: Rules) -> Iterator[Complaint]:
    """One scenario of one system: notes, the timed run, the scored one, the audits."""
    layout = rules.table.layout
    words = {"system": folder.parents[1].name, "scenario": folder.name}
    notes = top / layout.notes.format(**words)
    yield from _notes(notes, layout.measurement.format(**words), layout.rule_file)
    yield from performance(folder / "performance" / "run_1", scenario, rules)
    yield from _power(folder / "performance" / "power")
    yield from accuracy(folder / "accuracy", scenario, rules)
    if rules.division != rounds.OPEN:
        yield from audits(top / layout.compliance.format(**words), scenario, rules)


def _notes(place: Path, measurement: str, rule_file: str) -> Iterator[Complaint]:
    for name in filter(None, ("README.md", "user.conf", rule_file)):
        if not (place / name).is_file():
            yield Complaint(place / name, "missing")
        elif not (place / name).stat().st_size:
            yield Complaint(place / name, "empty")
    facts = _json(place / measurement)
    if facts is None:
        yield Complaint(place / measurement, "missing or not a JSON object")
        return
    for key in MEASURED:
        if not facts.get(key):
            yield Complaint(place / measurement, f"{key} is missing or says nothing")


def _power(place: Path) -> Iterator[Complaint]:
    if place.is_dir() and not any(place.iterdir()):
        yield Complaint(place, "empty: a submission without power has no such folder")


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else []


def _json(path: Path) -> dict[str, Any] | None:
    try:
        return json_file.read_object(path)
    except (OSError, ValueError):
        return None
