"""Our own verdict on records, gate by gate.   python -m sdxl verdict [RECORD|DIR ...]

The official checker passes INVALID runs, reads single logs and never compares an accuracy run
with the performance run beside it. `own` gates decide whether a measurement is valid at all; the
others whether it is what its MLPerf round asks for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sdxl.bench import logs
from sdxl.bench.mlperf import rounds
from sdxl.config.schema import Round
from sdxl.core.record import GateRow, Quality, Record, Scores

SOFTWARE = ("python", "packages", "diffusers")
"""Parts of a record's environment that two runs of one submission must share."""
ANY = rounds.Bounds(-math.inf, math.inf)
"""The open division's bounds of a score: it must be measured, no more."""
OFFICIAL_MS = 600_000
"""A run that asks for this duration means to be an official one."""
_TIME = "%m-%d-%Y %H:%M:%S.%f"


@dataclass(frozen=True)
class Gate:
    """One requirement. `margin` is measured against it, empty where there is no distance."""

    gate: str
    required: str
    measured: str
    passed: bool
    margin: str = ""
    own: bool = False

    def row(self) -> GateRow:
        """As a record holds it."""
        return GateRow.from_json(
            {
                "gate": self.gate,
                "required": self.required,
                "measured": self.measured,
                "margin": self.margin,
                "pass": self.passed,
                "scope": "run" if self.own else "round",
            }
        )


def asked(record: Record) -> bool:
    """Does a run mean to be an official one? Only of such a run the round's gates are asked."""
    return int(record.config["scenario"].get("min_duration_ms") or 0) >= OFFICIAL_MS


def gates(record: Record, partner: Record | None = None, division: str | None = None) -> list[Gate]:
    """Every gate of a finished run; `partner` is the run of the same work in the other mode.

    division: `closed` or `open`, by whose rules it is judged; the one it ran in if not said.
    """
    own = str(record.config["rules"])
    division = division or own
    detail = record.performance.loadgen.detail
    accuracy = record.config["mode"] == "accuracy"
    found = _run_gates(record, detail, accuracy)
    scenario = record.config["scenario"]["name"]
    if accuracy:
        found += accuracy_settings(detail)
    else:
        found += performance_settings(scenario, detail, division)
    which = Round(record.config["round"])
    found.append(seeds(which, rounds.rules_of(which, record.config["seed"]).seeds, detail))
    found.append(_division(own, division))
    if record.config.get("compliance"):
        return found
    if record.config.get("backend", {}).get("name") == "published":  # one record of both runs
        return found + score_gates(record, record.quality, division)
    found += pair_gates(record, partner)
    scored = record if accuracy else partner
    return found + score_gates(record, scored.quality if scored else Quality(), division)


def invalid_because(found: list[Gate]) -> str:
    """The reasons for which a run is INVALID; empty if it is not."""
    failing = [gate for gate in found if gate.own and not gate.passed]
    return "; ".join(
        gate.measured
        if gate.gate.startswith("LoadGen")
        else f"{gate.gate}: {gate.measured}, required {gate.required}"
        for gate in failing
    )


def score_gates(record: Record, quality: Quality, division: str = rounds.CLOSED) -> list[Gate]:
    """FID and CLIP score over all prompts; in the closed division between the round's bounds."""
    rules = rounds.rules_of(Round(record.config["round"]), record.config["seed"])
    scores, metrics = quality.scores, quality.scores.metrics
    bounded = division == rounds.CLOSED
    return [
        _between("FID", rules.fid if bounded else ANY, metrics.get("fid")),
        _between("CLIP score", rules.clip if bounded else ANY, metrics.get("clip_score")),
        _at_least("images scored", rounds.PROMPTS, scores.images),
        _official_scores(scores),
    ]


def pair_gates(record: Record, partner: Record | None) -> list[Gate]:
    """Accuracy run and performance run must be of one thing: artifact, software, pictures."""
    other = "performance" if record.config["mode"] == "accuracy" else "accuracy"
    if partner is None:
        return [Gate(f"{other} run", "one of the same work", "none", False)]
    ours, theirs = (run.performance.artifact_key for run in (record, partner))
    software = [{n: getattr(run.environment, n) for n in SOFTWARE} for run in (record, partner)]
    hashes = [{i.index: i.sha256 for i in run.images} for run in (record, partner)]
    shared = hashes[0].keys() & hashes[1].keys()
    equal = sum(hashes[0][index] == hashes[1][index] for index in shared)
    return [
        Gate(f"{other} run", "one of the same work", partner.status, partner.status == "ok"),
        Gate("same artifact", str(ours), str(theirs), ours == theirs and ours is not None),
        Gate("same software", "in both runs", _difference(*software), software[0] == software[1]),
        Gate(
            "same images for the same index",
            f"{len(shared)} of {len(shared)}",
            f"{equal} of {len(shared)}",
            equal == len(shared) > 0,
        ),
    ]


def _run_gates(record: Record, detail: dict[str, Any], accuracy: bool) -> list[Gate]:
    """What makes a run INVALID, whatever the round."""
    counts, errors = record.performance.counts, detail.get("errors", [])
    done, issued = counts.done, counts.issued
    told = "; ".join(f"LoadGen error: {message}" for message in errors) or "none"
    completed = f"{done:,} of {issued:,} samples"
    found = [
        Gate("LoadGen errors", "none", told, not errors, own=True),
        Gate("completed", f"{issued:,} of {issued:,} samples", completed, done == issued, own=True),
    ]
    if not accuracy:
        valid, reason = logs.verdict({**detail, "errors": []}, accuracy)
        found.insert(0, Gate("LoadGen's result", "VALID", reason or "VALID", valid, own=True))
    return found


def performance_settings(
    name: str, detail: dict[str, Any], division: str = rounds.CLOSED
) -> list[Gate]:
    """A scenario's official settings, as LoadGen says it had them, and what came of them."""
    wanted = rounds.settings_of(name, division)
    found = [
        _at_least("min_duration_ms", wanted.min_duration_ms, detail["effective_min_duration_ms"]),
        _at_least("duration, s", wanted.min_duration_ms / 1e3, round(seconds(detail), 1)),
        _at_least(
            "performance_sample_count",
            rounds.PROMPTS,
            detail["effective_performance_sample_count"],
        ),
    ]
    if name == "Offline":
        samples = detail["effective_samples_per_query"]
        found.append(_at_least("samples per query", wanted.min_query_count, samples))
    else:
        found.append(_at_least("queries", wanted.min_query_count, detail["result_query_count"]))
        met = bool(detail.get("early_stopping_met"))
        found.append(Gate("early stopping", "met", "met" if met else "not met", met))
        share = detail["effective_target_latency_percentile"]
        found.append(_same("percentile", f"{wanted.percentile:g}", f"{share:g}"))
    if wanted.samples_per_query:
        size = detail["effective_samples_per_query"]
        found.append(_same("samples per query", str(wanted.samples_per_query), str(size)))
    if wanted.target_latency_ms:
        limit = wanted.target_latency_ms
        setting = detail["effective_target_latency_ns"] / 1e6
        p99 = detail["result_99.00_percentile_latency_ns"] / 1e6
        found += [_at_most("target_latency_ms", limit, setting), _at_most("p99, ms", limit, p99)]
    return found


def accuracy_settings(detail: dict[str, Any]) -> list[Gate]:
    """Every prompt of the benchmark once."""
    count = detail.get("effective_accuracy_sample_count", detail.get("qsl_reported_total_count"))
    return [_same("accuracy samples", str(rounds.PROMPTS), str(count))]


def seeds(which: Round, wanted: rounds.Seeds, detail: dict[str, Any]) -> Gate:
    """LoadGen's three seeds are the round's; those of `custom` are nobody's."""
    seen = [detail.get(f"effective_{name}_rng_seed") for name in vars(wanted)]
    same = seen == list(vars(wanted).values())
    told = which.value if same else " ".join(map(str, seen))
    return Gate("seeds", f"{which.value}'s", told, same and which in rounds.ROUNDS)


def seconds(detail: dict[str, Any]) -> float:
    """How long the test took, from LoadGen's own marks; 0 where it wrote none."""
    try:
        begin, end = (
            datetime.strptime(detail[mark], _TIME) for mark in ("power_begin", "power_end")
        )
    except (KeyError, ValueError):
        return 0.0
    return (end - begin).total_seconds()


def _at_least(name: str, least: float, seen: float) -> Gate:
    return Gate(name, f"at least {least:,g}", f"{seen:,.6g}", seen >= least, _signed(seen - least))


def _at_most(name: str, most: float, seen: float) -> Gate:
    return Gate(name, f"at most {most:,g}", f"{seen:,.6g}", seen <= most, _signed(most - seen))


def _division(own: str, judged: str) -> Gate:
    """The closed division takes its own runs only, the open one any."""
    required = "closed or open" if judged == rounds.OPEN else rounds.CLOSED
    return Gate("division rules", required, own, own in required.split(" or "))


def _same(name: str, wanted: str, seen: str) -> Gate:
    return Gate(name, wanted, seen, wanted == seen)


def _between(name: str, bounds: rounds.Bounds, score: Any) -> Gate:
    """The margin is the distance to the nearer bound, negative outside."""
    required = "any, measured" if bounds is ANY else f"{bounds.low} to {bounds.high}"
    if not isinstance(score, int | float) or not math.isfinite(score):
        return Gate(name, required, "not measured", False)
    if bounds is ANY:
        return Gate(name, required, f"{score:.6f}", True)
    below, above = score - bounds.low, bounds.high - score
    nearer = "lower" if below < above else "upper"
    margin = f"{_signed(min(below, above))} to the {nearer} bound"
    return Gate(name, required, f"{score:.6f}", min(below, above) >= 0, margin)


def _official_scores(scores: Scores) -> Gate:
    """Published networks and statistics, captions that belong to their pictures."""
    fair = scores.comparable
    told = scores.comparable_reason if scores else "not measured"
    return Gate("official scores", "quality=mlperf", "yes" if fair else str(told), fair)


def _signed(distance: float) -> str:
    return f"{distance:+,.6g}"


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """The first thing in which two environments differ."""
    for part, value in ours.items():
        other = theirs.get(part)
        if value == other:
            continue
        if isinstance(value, dict) and isinstance(other, dict):
            name = next(n for n in sorted({*value, *other}) if value.get(n) != other.get(n))
            return f"{name}: {value.get(name)} and {other.get(name)}"
        return f"{part}: {value} and {other}"
    return "the same"
