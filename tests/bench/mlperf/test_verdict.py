"""The verdict: what LoadGen's logs pass and miss, two runs side by side, INVALID on purpose."""

import copy
import json

import pytest

from sdxl.bench import logs
from sdxl.bench.mlperf import rounds, verdict
from sdxl.bench.mlperf.verdict import Gate
from sdxl.config.schema import Round
from sdxl.core.record import Environment, Image, Performance, Quality, Record, Scores
from sdxl.core.records import write
from sdxl.report.verdict import main

OFFICIAL = {"min_duration_ms", "duration, s"}
"""The samples were short runs on 5,000 prompts."""

SAMPLES = [  # folder, accuracy mode, own gates that fail, gates of the round that fail
    ("out_Offline", False, set(), OFFICIAL),
    ("out_Server", False, set(), OFFICIAL),
    ("out_SingleStream", False, {"LoadGen's result", "LoadGen errors"}, OFFICIAL),
    ("out_MultiStream", False, set(), OFFICIAL),
    ("acc_Offline", True, set(), set()),
    ("inv_off", False, {"LoadGen's result"}, {"duration, s", "samples per query"}),
    ("srv_bad", False, {"LoadGen's result"}, {*OFFICIAL, "early stopping", "queries"}),
    (
        "ss_few",
        False,
        {"LoadGen's result", "LoadGen errors"},
        {*OFFICIAL, "early stopping", "queries"},
    ),
    ("t04_ct1", False, {"LoadGen errors"}, {*OFFICIAL, "samples per query"}),
    ("t04_ct2", False, set(), {*OFFICIAL, "samples per query"}),
]


def record_of(detail, accuracy=False, **performance):
    scenario = {"name": detail["effective_scenario"]}
    config = {
        "mode": "accuracy" if accuracy else "performance",
        "scenario": scenario, "round": "v6.1", "rules": "closed", "seed": 0, "compliance": None,
    }  # fmt: skip
    counts = {"issued": 7, "done": 7}
    found = {"counts": counts, "loadgen": {"detail": detail}, "artifact_key": "a", **performance}
    return Record("key", config, "python run.py", "ok", performance=Performance.from_json(found))


def failing(gates, own):
    return {gate.gate for gate in gates if gate.own is own and not gate.passed}


@pytest.mark.parametrize(("name", "accuracy", "own", "official"), SAMPLES)
def test_every_sample_set_fails_just_the_gates_it_should(data, name, accuracy, own, official):
    detail = logs.read(data / "loadgen_samples" / name)["detail"]
    gates = verdict.gates(record_of(detail, accuracy))
    assert failing(gates, True) == own
    partner = {"performance run" if accuracy else "accuracy run"}
    scores = {"FID", "CLIP score", "images scored", "official scores"}
    assert failing(gates, False) - partner - scores == official
    assert bool(verdict.invalid_because(gates)) is bool(own)


def test_reasons_are_loadgens(data):
    detail = logs.read(data / "loadgen_samples/srv_bad")["detail"]
    reason = verdict.invalid_because(verdict.gates(record_of(detail)))
    assert "Reduce target QPS to improve latency" in reason and "early stopping" in reason


def test_a_lost_sample_is_no_valid_run(data):
    detail = logs.read(data / "loadgen_samples/out_Offline")["detail"]
    found = record_of(detail, counts={"issued": 7, "done": 6})
    assert verdict.invalid_because(verdict.gates(found)) == (
        "completed: 6 of 7 samples, required 7 of 7 samples"
    )


def test_other_seeds_are_noticed(data):
    detail = logs.read(data / "loadgen_samples/out_Offline")["detail"]
    found = record_of(detail)
    found.config["round"] = "v5.1"
    gate = next(gate for gate in verdict.gates(found) if gate.gate == "seeds")
    assert not gate.passed and "2085463073848966840" in gate.measured
    found.config["round"] = "custom"
    gate = next(gate for gate in verdict.gates(found) if gate.gate == "seeds")
    assert not gate.passed, "custom seeds are no round's"


@pytest.mark.parametrize(
    ("fid", "clip", "margins"),
    [
        (23.5, 31.75, ("+0.450076 to the upper bound", "+0.063318 to the upper bound")),
        (23.02, 31.69, ("+0.00914242 to the lower bound", "+0.00368127 to the lower bound")),
        (23.9501, 31.8134, ("-2.374e-05 to the upper bound", "-8.199e-05 to the upper bound")),
        (23.0, 31.6, ("-0.0108576 to the lower bound", "-0.0863187 to the lower bound")),
    ],
)
def test_scores_have_two_bounds_and_margins(data, fid, clip, margins):
    detail = logs.read(data / "loadgen_samples/acc_Offline")["detail"]
    scores = {"metrics": {"fid": fid, "clip_score": clip}, "images": 5000}
    gates = verdict.score_gates(record_of(detail, True), Quality.from_json({"scores": scores}))
    assert [gate.margin for gate in gates[:2]] == list(margins)
    assert [gate.passed for gate in gates[:2]] == ["+" in margin for margin in margins]
    assert gates[2].passed
    assert not gates[3].passed, "nobody said that these are the published networks'"
    scores["comparable"] = True
    assert verdict.score_gates(record_of(detail, True), Quality.from_json({"scores": scores}))[
        3
    ].passed
    few = verdict.score_gates(
        record_of(detail, True), Quality.from_json({"scores": {**scores, "images": 4999}})
    )
    assert not few[2].passed and few[2].margin == "-1"


def test_no_score_and_no_number_are_no_pass(data):
    detail = logs.read(data / "loadgen_samples/acc_Offline")["detail"]
    for value in (None, float("nan"), "31.7"):
        gates = verdict.score_gates(
            record_of(detail, True), Quality(scores=Scores({"fid": value, "clip_score": value}))
        )
        assert [gate.measured for gate in gates[:2]] == ["not measured"] * 2
        assert not any(gate.passed for gate in gates)


@pytest.fixture
def pair(data):
    """A performance run and the accuracy run of the same work."""
    samples = data / "loadgen_samples"
    speed = record_of(logs.read(samples / "out_Offline")["detail"])
    accuracy = record_of(logs.read(samples / "acc_Offline")["detail"], True)
    for run in (speed, accuracy):
        run.environment = Environment("3.11", packages={"torch": "2.13", "numpy": "2.2"})
        run.images = [Image(n, sha256=f"hash {n}") for n in range(8)]
    return speed, accuracy


def test_a_pair_of_one_thing_passes(pair):
    assert all(gate.passed for gate in verdict.pair_gates(*pair))
    assert [g.passed for g in verdict.pair_gates(pair[0], None)] == [False]


@pytest.mark.parametrize(
    ("change", "gate", "measured"),
    [
        (lambda run: vars(run.performance).update(artifact_key="b"), "same artifact", "b"),
        (lambda run: run.environment.packages.update(torch="2.12"), "same software",
         "torch: 2.13 and 2.12"),
        (lambda run: vars(run.images[3]).update(sha256="other"), "same images for the same index",
         "7 of 8"),
        (lambda run: run.images.clear(), "same images for the same index", "0 of 0"),
        (lambda run: vars(run).update(status="invalid"), "accuracy run", "invalid"),
    ],
)  # fmt: skip
def test_a_pair_of_two_things_does_not(pair, change, gate, measured):
    speed, accuracy = pair
    other = copy.deepcopy(accuracy)
    change(other)
    failed = [g for g in verdict.pair_gates(speed, other) if not g.passed]
    assert [(g.gate, g.measured) for g in failed] == [(gate, measured)]


def test_a_gates_row_is_json_and_says_its_scope():
    row = Gate("p99, ms", "at most 20,000", "19,000", True, "+1,000").row().to_json()
    assert json.loads(json.dumps(row)) == row
    assert row["pass"] is True and row["scope"] == "round"


INVALID = [  # scenario, what makes it INVALID, LoadGen's reason
    (["scenario=Offline", "scenario.target_qps=1", "scenario.min_duration_ms=3000"],
     "Increase expected QPS"),
    (["scenario=Server", "backend.latency_ms=30", "scenario.target_latency_ms=1"],
     "Reduce target QPS"),
    (["scenario=SingleStream", "scenario.min_query_count=10"], "at least 64 queries"),
    (["scenario=MultiStream", "scenario.min_query_count=10"], "at least 64 queries"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "reason"), INVALID, ids=lambda each: str(each)[:24])
def test_every_scenario_can_be_invalid_with_the_reason(cli, words, reason):
    """That each can be VALID, tests/test_cell.py shows."""
    done = cli("backend=fake", "scenario.min_duration_ms=0", "backend.sample_ms=0.2", "limit=16",
               *words)  # fmt: skip
    assert done.code == 3, done.err
    assert reason in done.json["reason"] and reason in done.record["reason"]
    row = done.record["verdict"][0]
    assert row["gate"] == "LoadGen's result" and row["pass"] is False and reason in row["measured"]


def test_accuracy_and_performance_run_find_each_other_and_are_shown(cli, tmp_path, capsys):
    fast = ("backend=fake", "scenario.min_duration_ms=0", "backend.sample_ms=0.2", "limit=16")
    done = cli("-m", *fast, "mode=performance,accuracy")
    speed, accuracy = done.records()
    gates = [{row["gate"]: row for row in run["verdict"]} for run in (speed, accuracy)]
    assert gates[0]["accuracy run"]["measured"] == "none", "it came second"
    for name in ("performance run", "same artifact", "same software"):
        assert gates[1][name]["pass"], gates[1][name]
    assert gates[1]["same images for the same index"]["measured"] == "8 of 8"
    assert main([str(done.dir)]) == 0, "quick runs: nobody asked for the round's gates"
    said = capsys.readouterr().out
    last = json.loads(said.splitlines()[-1])
    first = next(v for k, v in last["not_asked_for"].items() if "/0/" in k)
    assert "min_duration_ms" in first and "accuracy run" not in first
    assert not any(last["failing"].values()) and last["status"] == "ok"
    assert "8 of 8" in said and "not asked for" in said and "NO" not in said
    assert main([str(done.dir), "--official"]) == 3
    said = capsys.readouterr().out
    last = json.loads(said.splitlines()[-1])
    first = next(v for k, v in last["failing"].items() if "/0/" in k)
    assert "min_duration_ms" in first and "accuracy run" not in first and "NO" in said
    assert main([str(tmp_path / "nothing.json")]) == 2


def test_an_official_run_and_an_invalid_quick_one_are_not_excused(data, tmp_path, capsys):
    detail = logs.read(data / "loadgen_samples/out_Offline")["detail"]
    found = record_of(detail)
    found.config["scenario"]["min_duration_ms"] = verdict.OFFICIAL_MS
    write(found, tmp_path / "official")
    assert main([str(tmp_path / "official")]) == 3
    bad = record_of(logs.read(data / "loadgen_samples/inv_off")["detail"])
    write(bad, tmp_path / "quick")
    assert main([str(tmp_path / "quick")]) == 3
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(last["failing"].values()) == [["LoadGen's result"]]


def test_the_open_division_has_no_bounds_and_fewer_samples(data):
    detail = logs.read(data / "loadgen_samples/t04_ct1")["detail"]
    found = record_of({**detail, "effective_samples_per_query": 500})
    closed = failing(verdict.gates(found), False)
    assert closed - failing(verdict.gates(found, None, "open"), False) == {"samples per query"}
    found.config["rules"] = "open"
    assert "division rules" not in failing(verdict.gates(found), False)
    assert "division rules" in failing(verdict.gates(found, None, "closed"), False)
    scores = Quality(scores=Scores({"fid": 99.0, "clip_score": 1.0}, images=5000))
    assert [gate.passed for gate in verdict.score_gates(found, scores, "open")[:2]] == [True, True]
    none = verdict.score_gates(found, Quality(), "open")
    assert [gate.measured for gate in none[:2]] == ["not measured"] * 2 and not none[0].passed


def test_a_gates_margin_is_no_rounding_of_the_table(data):
    """The table's bounds are exact to eight decimals."""
    rules = rounds.rules_of(Round("v5.1"))
    assert (rules.fid.low, rules.fid.high) == (23.01085758, 23.95007626)
    assert (rules.clip.low, rules.clip.high) == (31.68631873, 31.81331801)
    centre = 31.74981837
    assert rules.clip.low == pytest.approx(centre * 0.998, abs=1e-7)
    assert rules.clip.high == pytest.approx(centre * 1.002, abs=1e-7)
