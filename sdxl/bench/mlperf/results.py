"""Published results: rows of MLCommons' table and trees of submissions, as records."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdxl.bench import logs
from sdxl.bench.mlperf import rounds, verdict
from sdxl.bench.mlperf.submission.check_runs import DETAIL, scores
from sdxl.config.content_key import key
from sdxl.config.rules_model import MLPERF_GUIDANCE, MLPERF_STEPS
from sdxl.core import json_file
from sdxl.core.errors import SdxlError, UserError
from sdxl.core.record import Counts, Energy, Environment, LoadGen, Performance, Record, Scores

BACKEND = "published"
"""What the records say measured them."""
SYSTEM, ACCELERATOR = "system", "accelerator"
"""Of what the figures of a record are."""
SIDE = 1024
METRIC = {
    "Offline": "samples_per_second",
    "Server": "completed_samples_per_second",
    "SingleStream": "early_stopping_latency_ss",
    "MultiStream": "early_stopping_latency_ms",
}
"""What the official figure of a scenario is called in a record."""
_NUMBER = r"[\d.]+(?:e[+-]?\d+)?"


@dataclass(frozen=True)
class Result:
    """One scenario of one system. `value` is the official figure, `unit` images/s or ms."""

    round: str
    division: str
    submitter: str
    system: str
    accelerator: str
    accelerators: int  # in all nodes
    scenario: str
    rate: float  # images/s
    value: float | None
    unit: str
    source: str
    fid: float | None = None
    clip: float | None = None
    unet: str = "unknown"  # number format of its weights
    processor: str = ""
    watts: float | None = None
    ran: str = ""  # another scenario, from whose run this one is inferred
    logged: dict[str, Any] = field(default_factory=dict)  # LoadGen's logs

    def records(self, command: str) -> Iterator[Record]:
        """The system's record, and that of one of its accelerators where it has several."""
        yield _record(self, SYSTEM, command)
        if self.accelerators > 1 and self.scenario in ("Offline", "Server"):
            count = self.accelerators
            one = replace(
                self,
                rate=self.rate / count,
                value=self.value and self.value / count,
                watts=self.watts and self.watts / count,
                logged={},
            )
            yield _record(one, ACCELERATOR, command)


def _record(result: Result, of: str, command: str) -> Record:
    """A record as if it had been measured here; its `config` says that it was not."""
    config = {
        "model": {
            "name": "sdxl",
            "height": SIDE,
            "width": SIDE,
            "steps": MLPERF_STEPS,
            "guidance": MLPERF_GUIDANCE,
        },
        "backend": {
            "name": BACKEND,
            "of": of,
            "accelerator": result.accelerator,
            "accelerators": result.accelerators if of == SYSTEM else 1,
            "submitter": result.submitter,
            "system": result.system,
            "source": result.source,
        },
        "precision": {"unet": result.unet},
        "quant": {"format": "none"},
        "scenario": {"name": result.scenario, "min_duration_ms": verdict.OFFICIAL_MS},
        "mode": "performance",
        "round": result.round,
        "rules": result.division,
        "compliance": None,
        "seed": 0,
    }
    record = Record(key(config, result.rate, result.value), config, command, "ok")
    detail = result.logged.get("detail", {})
    done = int(detail.get("result_query_count") or 0) * _samples(detail)
    record.performance = Performance(
        scenario=result.scenario,
        mode="performance",
        images_per_second=result.rate,
        metric=METRIC[result.scenario],
        value=result.value,
        unit=result.unit,
        counts=Counts(done, done),
        latency_ms=logs.latency_ms(detail) if detail else {},
        loadgen=LoadGen.from_json(result.logged) if detail else LoadGen(),
    )
    found = {"fid": result.fid, "clip_score": result.clip}
    metrics = {name: each for name, each in found.items() if each is not None}
    if metrics:
        record.quality.scores = Scores(metrics, BACKEND, rounds.PROMPTS, comparable=True)
    if result.watts:
        per_image = result.watts / result.rate
        record.resources.energy = Energy(None, per_image, result.watts, "as published")
    shown = [{"name": result.accelerator}] * (result.accelerators if of == SYSTEM else 1)
    record.environment = Environment(cpu=result.processor or None, accelerators=shown)
    gates = verdict.gates(record) if detail else verdict.score_gates(record, record.quality)
    record.verdict = [gate.row() for gate in gates]
    record.reason = verdict.invalid_because(gates)
    record.status = "invalid" if record.reason else "ok"
    record.comparable = result.division == rounds.CLOSED
    record.comparable_reason = "" if record.comparable else f"the {result.division} division"
    return record


def _samples(detail: dict[str, Any]) -> int:
    """Of a query: LoadGen counts all of Offline's as one query, and logs their number."""
    return int(detail.get("effective_samples_per_query") or 1)


def of_table(path: Path) -> Iterator[Result]:
    """SDXL's rows of a results table of MLCommons' (JSON); raises `UserError` naming a bad row."""
    try:
        rows = json_file.read(path)
    except (OSError, ValueError) as error:
        raise UserError("the table cannot be read", f"{path}: {error}", "JSON") from error
    if not isinstance(rows, list):
        raise UserError(f"{path} is no table of results", type(rows).__name__, "a list of rows")
    for number, row in enumerate(rows, 1):
        try:
            if row["Model"] == rounds.MODEL:
                yield _row(row)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"row {number} of {path} is no result",
                f"{type(error).__name__}: {error}",
                "the fields of MLCommons' results table",
            ) from error


def _row(row: dict[str, Any]) -> Result:
    value, milliseconds = float(row["Performance_Result"]), "ms" in row["Performance_Units"]
    if str(row["version"]) not in (known := [each.value for each in rounds.ROUNDS]):
        raise ValueError(f"its round is {row['version']}, known are {' '.join(known)}")
    if not 0 < value < math.inf:
        raise ValueError(f"Performance_Result is {value:g}")
    power = row.get("Power_Result") if row.get("Power_Units", "Watts") == "Watts" else None
    return Result(
        round=str(row["version"]),
        division=str(row["Category"]),
        submitter=str(row["Submitter"]),
        system=str(row["Platform"]),
        accelerator=str(row["Accelerator"]),
        accelerators=int(row["a#"] or 0) * int(row["Nodes"]),
        scenario=str(row["Scenario"]),
        rate=1e3 / value if milliseconds else value,
        value=value,
        unit="ms" if milliseconds else "images/s",
        source=str(row["Details"]),
        fid=_score("FID_SCORE", row["Accuracy"]),
        clip=_score("CLIP_SCORE", row["Accuracy"]),
        unet=unet_of(row["weight_data_types"]),
        processor=str(row.get("Processor") or ""),
        watts=float(power) if power else None,  # other units are of a query's energy
    )


def _score(name: str, text: str) -> float | None:
    found = re.search(rf"{name}\W+({_NUMBER})", text)
    return float(found[1]) if found else None


def unet_of(types: Any) -> str:
    """The UNet's format among the weights' types: by its name where they are named."""
    text = str(types)
    named = re.search(r"unet\W+(\w+)", text, re.IGNORECASE)
    return named[1] if named else text.split(",")[0].strip() or "unknown"


def of_tree(root: Path) -> Iterator[Result]:
    """SDXL's results in a submission's tree of either layout, or of loose LoadGen logs."""
    for path in sorted(root.rglob(DETAIL)):
        parts = path.relative_to(root).parts
        audit = any(name in parts for name in rounds.CLOSED_TESTS)
        if audit or path.parent.name == "accuracy" or "ranging" in parts:
            continue
        if path.parent.name != "run_1":
            yield from _loose(path.parent)
        elif path.parents[3].name == rounds.MODEL:
            yield _scenario(path.parents[2])


def _scenario(folder: Path) -> Result:
    """One scenario's folder: .../results/SYSTEM/MODEL/SCENARIO."""
    system, top = folder.parents[1].name, folder.parents[3]
    facts = _object(top / "systems" / f"{system}.json")
    told = scores(folder / "accuracy" / "accuracy.txt")
    found = _logged(folder / "performance" / "run_1", folder.name)
    return replace(
        found,
        division=top.parent.name,
        submitter=top.name,
        system=system,
        accelerator=str(facts.get("accelerator_model_name") or "unknown"),
        accelerators=_count(facts, "accelerators_per_node") * _count(facts, "number_of_nodes"),
        processor=str(facts.get("host_processor_model_name") or ""),
        fid=told.get("FID_SCORE"),
        clip=told.get("CLIP_SCORE"),
        unet=_unet(top, folder, system, found.round),
    )


def _unet(top: Path, folder: Path, system: str, which: str) -> str:
    """From measurements.json, wherever its round has it and whatever it is called there."""
    of_round = next((each for each in rounds.ROUNDS if each.value == which), None)
    places = [folder]
    if of_round:
        words = {"system": system, "scenario": folder.name}
        places.append(top / rounds.rules_of(of_round).layout.notes.format(**words))
    for path in (file for place in places for file in sorted(place.glob("*.json"))):
        if types := _object(path).get("weight_data_types"):
            return unet_of(types)
    return "unknown"


def _loose(folder: Path) -> Iterator[Result]:
    """A folder of LoadGen's logs; one of an accuracy run has no figures."""
    try:
        found = _logged(folder, "")
    except KeyError:
        return
    yield found


def _logged(folder: Path, scenario: str) -> Result:
    """What the logs of a timed run say; `KeyError` where they are of none."""
    found = logs.read(folder)
    detail = found["detail"]
    ran = str(detail["effective_scenario"])
    scenario = next((n for n in rounds.SETTINGS if n.lower() == scenario.lower()), ran)
    rate, (_, value, unit) = logs.figure(ran, detail, _samples(detail))
    if ran != scenario:
        rate = value = float(detail["result_qps_without_loadgen_overhead"])
        unit = "images/s"
        if samples := rounds.SETTINGS[scenario].samples_per_query:
            value, unit = samples * detail[METRIC[scenario]] / 1e6 or None, "ms"
    return Result(
        round=_round(detail), division=rounds.OPEN, submitter="unknown", system=folder.name,
        accelerator="unknown", accelerators=1, scenario=scenario, rate=rate, value=value, unit=unit,
        source=str(folder), ran=ran, logged=found,
    )  # fmt: skip


def _round(detail: dict[str, Any]) -> str:
    """By LoadGen's seeds; `custom` where no round has them."""
    for which, rules in rounds.ROUNDS.items():
        if detail.get("effective_qsl_rng_seed") == rules.seeds.qsl:
            return which.value
    return "custom"


def _object(path: Path) -> dict[str, Any]:
    try:
        return json_file.read_object(path)
    except (OSError, ValueError):
        return {}


def _count(facts: dict[str, Any], name: str) -> int:
    try:
        return int(facts[name])
    except (KeyError, TypeError, ValueError) as error:
        raise SdxlError(f"a system's description has no count {name}", facts.get(name)) from error
