"""The runs of a submission in their order: what is there, what is left, hours, disk, commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.bench.mlperf import rounds
from sdxl.bench.mlperf.compliance import SAMPLED
from sdxl.bench.mlperf.submission.gather import Asked, Run, refused
from sdxl.config.derive import timed_only
from sdxl.core import records

ROLES = {
    "performance": "",
    "accuracy": "mode=accuracy quality=mlperf submission=true",
    "TEST01": "compliance=test01",
    "TEST04": "compliance=test04",
}
"""The words that make an official run what it is. TEST01 is judged by the two before it."""
_OURS = (
    "+experiment",
    "round",
    "rules",
    "scenario",
    "mode",
    "quality",
    "submission",
    "compliance",
    "limit",
    "plan",
    "rerun",
    "find_peak",
    "hydra",
    "repeat",
)
"""Settings that the plan writes itself; all others of a record's command are kept."""
_PICTURE = 3 * 1024 * 1024
_SEARCH = 8
"""Runs that a search for Server's rate takes, about."""


@dataclass(frozen=True)
class Step:
    """One run. `hours` is None where no record tells how fast it will be."""

    scenario: str
    role: str
    command: str
    hours: float | None
    disk_bytes: int
    record: Path | None = None  # that is there and will do
    refused: str = ""  # why one that is there will not do

    def row(self) -> dict[str, Any]:
        """For the JSON line."""
        there = {"record": self.record and str(self.record), "refused": self.refused or None}
        return {**vars(self), **there}


def steps(places: Sequence[Path], asked: Asked, words: Sequence[str]) -> list[Step]:
    """Every run that the submission needs; `words`: settings of the work, else those of a record.

    Raises `UserError` for a place without records.
    """
    runs = [Run(path, records.read(path)) for path in records.find(places)] if places else []
    runs = [run for run in runs if run.record.config["round"] == asked.round.value]
    chosen = list(words) or _words(runs)
    found: list[Step] = []
    for scenario in wanted(asked):
        rate, qps = _rate(runs, scenario), _qps(runs)
        for role in ROLES if asked.division == rounds.CLOSED else list(ROLES)[:2]:
            mine = [run for run in runs if (run.scenario, run.role) == (scenario, role)]
            found += _step(scenario, role, asked, chosen, mine, rate, qps)
    return found


def wanted(asked: Asked) -> tuple[str, ...]:
    """The scenarios to run; in the open division any one of them is enough."""
    of_round = rounds.rules_of(asked.round).scenarios.get(asked.system_type)
    usual = rounds.EDGE if "edge" in asked.system_type else rounds.DATACENTER
    return of_round or (usual if asked.division == rounds.OPEN else ())


def _step(
    scenario: str,
    role: str,
    asked: Asked,
    words: list[str],
    runs: list[Run],
    rate: float | None,
    qps: float | None,
) -> Iterator[Step]:
    """A run, with Server's search for its rate before it where nobody knows one."""
    if role == "accuracy":
        words = [word for word in words if word.partition("=")[0] not in timed_only(scenario)]
    line = [
        "python",
        "run.py",
        f"+experiment=mlperf_{scenario.lower()}",
        f"round={asked.round.value}",
        f"rules={asked.division}",
        *words,
    ]
    seconds = _seconds(scenario, role, rate)
    if scenario == "Server" and role == "performance" and not qps:
        hours = seconds and _SEARCH * seconds / 3600
        yield Step(scenario, "search", shlex.join([*line, "find_peak=true"]), hours, 0)
    command = shlex.join(line)
    if scenario == "Server":
        command += f" scenario.target_qps={f'{qps:.6g}' if qps else 'QPS'}"
    if asked.division == rounds.OPEN and (scenario, role) == ("Offline", "performance"):
        command += f" scenario.min_query_count={rounds.OPEN_SAMPLES}"
    command = " ".join(filter(None, (command, ROLES[role])))
    disk = {"accuracy": 3 * rounds.PROMPTS, "TEST01": 2 * SAMPLED}.get(role, 0) * _PICTURE
    why = {run.path: [problem.what for problem in refused(run, asked)] for run in runs}
    done = next((path for path, problems in why.items() if not problems), None)
    said = "" if done else "; ".join(problems[0] for problems in why.values())
    yield Step(scenario, role, command, seconds and seconds / 3600, disk, done, said)


def _seconds(scenario: str, role: str, rate: float | None) -> float | None:
    """Of LoadGen's test, at `rate` images/s."""
    if not rate:
        return None
    if role == "accuracy":
        return rounds.PROMPTS / rate
    wanted = rounds.SETTINGS[scenario]
    images = wanted.min_query_count * (wanted.samples_per_query or 1)
    return max(wanted.min_duration_ms / 1e3, images / rate)


def _rate(runs: Sequence[Run], scenario: str) -> float | None:
    """Images/s of the scenario's newest record, else of any other's."""
    known = [run for run in runs if run.record.performance.images_per_second]
    known.sort(key=lambda r: (r.scenario == scenario, r.role == "performance", r.record.started))
    return known[-1].record.performance.images_per_second if known else None


def _qps(runs: Sequence[Run]) -> float | None:
    """The rate of the Server runs that are there."""
    for run in runs:
        if run.scenario == "Server" and run.role == "performance":
            asked: float | None = run.record.config["scenario"].get("target_qps")
            return asked or run.record.performance.settings.get("server_target_qps")
    return None


def _words(runs: Sequence[Run]) -> list[str]:
    """Settings of the work, from the command of the newest record."""
    if not runs:
        return []
    command = max(runs, key=lambda run: run.record.started).record.command
    words = [word for word in shlex.split(command) if "=" in word]
    return [word for word in words if word.split("=")[0].split(".")[0] not in _OURS]
