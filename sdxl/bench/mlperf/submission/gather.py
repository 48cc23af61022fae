"""Which runs make up a submission, and everything that forbids submitting them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdxl.bench.mlperf import rounds, verdict
from sdxl.config.schema import Round
from sdxl.core import records
from sdxl.core.errors import ConfigError, Problem
from sdxl.core.record import GateRow, Record

STRICT_ONLY = "TEST01 every byte"
"""The gate of ours that the official TEST01 does not have."""


@dataclass(frozen=True)
class Asked:
    """What a submission is to be."""

    round: Round
    division: str
    submitter: str
    system: str
    system_type: str
    draft: bool = False  # runs that miss the round's settings or bounds are let in
    rounding: bool = False  # a TEST01 that passes officially, though not to the last byte


@dataclass(frozen=True)
class Run:
    """A record and where it lies."""

    path: Path
    record: Record

    @property
    def folder(self) -> Path:
        """The cell's folder: logs and pictures."""
        return self.path.parent

    @property
    def scenario(self) -> str:
        """LoadGen's name of it."""
        return str(self.record.config["scenario"]["name"])

    @property
    def role(self) -> str:
        """`performance`, `accuracy`, `TEST01` or `TEST04`."""
        test = self.record.config.get("compliance")
        return test.upper() if test else str(self.record.config["mode"])


@dataclass
class Result:
    """One scenario's runs, by role."""

    scenario: str
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def performance(self) -> Run:
        """The measured run."""
        return self.runs["performance"]

    @property
    def accuracy(self) -> Run:
        """The run whose pictures were scored."""
        return self.runs["accuracy"]


def gather(places: list[Path], asked: Asked) -> list[Result]:
    """The runs at `places` by scenario.

    Raises `ConfigError` with everything that forbids submitting them, each run by its path.
    """
    runs = [Run(path, records.read(path)) for path in records.find(places)]
    problems = [problem for run in runs for problem in refused(run, asked)]
    results: dict[str, Result] = {}
    for run in runs:
        known = results.setdefault(run.scenario, Result(run.scenario)).runs
        if other := known.get(run.role):
            both = f"{other.path}, {run.path}"
            problems.append(Problem(f"two {run.role} runs of {run.scenario}", both, "one of each"))
        known.setdefault(run.role, run)
    problems += _scenarios(set(results), asked)
    for result in results.values():
        problems += _whole(result, asked)
    if problems:
        raise ConfigError(problems)
    return sorted(results.values(), key=lambda result: result.scenario)


def refused(run: Run, asked: Asked) -> Iterator[Problem]:
    """What is wrong with one run, by itself."""
    record = run.record
    failing = {row.gate for row in record.verdict if not row.passed and row.scope == "run"}
    forgiven = asked.rounding and record.status == "invalid" and failing == {STRICT_ONLY}
    if record.status != "ok" and not forgiven:
        yield Problem(f"{run.path} is {record.status}", record.reason, "a run that is ok")
    if not record.performance.loadgen:
        if record.status == "ok":
            yield Problem(
                f"{run.path} is no run of LoadGen's", f"scenario={run.scenario}",
                "one of MLPerf's scenarios",
            )  # fmt: skip
        return
    if record.config["round"] != asked.round.value:
        yield Problem(
            f"{run.path} is of another round", record.config["round"], asked.round.value,
            f"round={asked.round.value}",
        )  # fmt: skip
    if run.role == "accuracy" and not record.config.get("submission"):
        yield Problem(
            f"{run.path} did not log its pictures", "submission=false", "submission=true",
            "mode=accuracy submission=true",
        )  # fmt: skip
    if asked.draft:
        return
    paired = {gate.gate for gate in verdict.pair_gates(record, None)}
    for row in _rows(record, asked.division):
        if not row.passed and row.scope == "round" and row.gate not in paired | _JUDGED_IN_PAIRS:
            yield Problem(f"{run.path}: {row.gate}", row.measured, row.required)
    if not record.comparable and asked.division == rounds.CLOSED:
        yield Problem(f"{run.path} is not the benchmark", record.comparable_reason)


def _rows(record: Record, division: str) -> list[GateRow]:
    """Its gates by the rules of the division asked for, which need not be those it ran under."""
    judged = [gate.row() for gate in verdict.gates(record, None, division)]
    names = {row.gate for row in judged}
    return judged + [row for row in record.verdict if row.gate not in names]


_JUDGED_IN_PAIRS = {
    "same artifact", "same software", "same images for the same index",
    "FID", "CLIP score", "images scored", "official scores",
}  # fmt: skip
"""Gates that the record's own verdict judged beside another partner than the submission's."""


def _scenarios(found: set[str], asked: Asked) -> Iterator[Problem]:
    rules = rounds.rules_of(asked.round)
    allowed = rounds.scenarios_of(rules, asked.system_type, asked.division)
    if allowed is None:
        known = ", ".join(rules.scenarios) or "none"
        yield Problem(
            f"{asked.round.value} takes no SDXL from {asked.system_type} systems", rules.status,
            f"a system type of: {known}; or the open division", "--division open",
        )  # fmt: skip
        return
    if asked.division == rounds.OPEN:  # one scenario is enough
        return
    if missing := [name for name in allowed if name not in found]:
        yield Problem(
            f"{asked.system_type} systems must submit {' and '.join(allowed)}",
            f"no run of {' and '.join(missing)}",
        )
    for name in sorted(found - set(allowed)):
        yield Problem(
            f"{name} is no scenario of SDXL on {asked.system_type} systems", name,
            " and ".join(allowed),
        )  # fmt: skip


def _whole(result: Result, asked: Asked) -> Iterator[Problem]:
    """Every run is there, and all are of one thing."""
    wanted = ["performance", "accuracy"]
    if asked.division == rounds.CLOSED:
        wanted += rounds.CLOSED_TESTS
    for role in wanted:
        if role not in result.runs:
            setting = {"performance": "mode=performance", "accuracy": "mode=accuracy"}
            fix = setting.get(role, f"compliance={role.lower()}")
            yield Problem(f"{result.scenario} has no {role} run", fix=f"... {fix}")
    if not {"performance", "accuracy"} <= result.runs.keys():
        return
    speed, accuracy = result.performance, result.accuracy
    gates = verdict.pair_gates(speed.record, accuracy.record)
    if not asked.draft:
        gates += verdict.score_gates(accuracy.record, accuracy.record.quality, asked.division)
    for gate in gates:
        if not gate.passed:
            yield Problem(
                f"{gate.gate}: {speed.path} and {accuracy.path}", gate.measured, gate.required
            )
    for role, run in result.runs.items():
        if _work(run) != _work(speed):
            yield Problem(f"the {role} run {run.path} is of other work than {speed.path}",
                          _work(run), _work(speed))  # fmt: skip


def _work(run: Run) -> Any:
    found = run.record.performance
    return f"{found.artifact_key} {found.pair_key}"
