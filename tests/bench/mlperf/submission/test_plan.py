"""The runs that a submission still needs, and their price."""

import json
import shutil

import pytest

from sdxl.bench.mlperf.submission import command
from sdxl.bench.mlperf.submission.gather import Asked, Run, refused
from sdxl.config.schema import Round
from sdxl.core.record import Record
from sdxl.report.verdict import main as verdict
from tests.bench.mlperf.submission.official import DATACENTER, EDGE, copy_records, edit

ROLES = ["performance", "accuracy", "TEST01", "TEST04"]


@pytest.fixture
def planned(capsys):
    """Words -> (exit code, the JSON line, what was printed before)."""

    def run(*words):
        code = command.main(["plan", *map(str, words)])
        out, err = capsys.readouterr()
        return code, json.loads(out.splitlines()[-1]), out + err

    return run


def test_a_new_submission_is_a_list_of_commands_in_order(planned):
    code, found, said = planned("model.path=/data/sdxl")
    assert code == 0 and found["left"] == 8 and found["hours_left"] is None
    assert [(run["scenario"], run["role"]) for run in found["runs"]] == [
        (scenario, role) for scenario in ("SingleStream", "Offline") for role in ROLES
    ]
    lines = [run["command"] for run in found["runs"]]
    start = "python run.py +experiment=mlperf_singlestream round=v6.1 rules=closed"
    assert lines[0] == f"{start} model.path=/data/sdxl"
    assert lines[1].endswith("mode=accuracy quality=mlperf submission=true")
    assert lines[2].endswith("compliance=test01") and lines[3].endswith("compliance=test04")
    assert found["runs"][1]["disk_bytes"] == 3 * 5000 * 3 * 1024 * 1024
    assert "submission build" in said and "hours unknown" in said


def test_a_price_is_for_the_timed_runs(planned):
    """Accuracy mode has no speed, and would refuse it."""
    _, found, _ = planned("model.path=/data/sdxl", "cost.per_hour=2", "quality.keep_images=4")
    for run in found["runs"]:
        timed = run["role"] != "accuracy"
        assert ("cost.per_hour=2" in run["command"]) is timed
        assert ("quality.keep_images=4" in run["command"]) is timed


def test_what_is_there_is_not_asked_for_again(planned, edge, tmp_path):
    code, found, _ = planned(edge)
    assert code == 0 and found["left"] == 0 and found["disk_bytes_left"] == 0
    assert all(run["record"] for run in found["runs"])
    places = copy_records(edge, tmp_path / "runs")
    shutil.rmtree(places / "Offline/test04")
    edit(places / "Offline/accuracy/record.json", lambda r: r.config.update(submission=False))
    edit(places / "Offline/performance/record.json",
         lambda r: vars(r.performance).update(images_per_second=2.0))  # fmt: skip
    _, found, said = planned(places, "model.path=/data/sdxl")
    left = {(run["scenario"], run["role"]): run for run in found["runs"] if not run["record"]}
    assert set(left) == {("Offline", "accuracy"), ("Offline", "TEST04")}
    assert left["Offline", "TEST04"]["hours"] == pytest.approx(5000 / 2 / 3600)
    assert found["hours_left"] == pytest.approx(2 * 5000 / 2 / 3600, abs=0.01)
    assert "did not log its pictures" in left["Offline", "accuracy"]["refused"]
    assert "again, since" in said


def test_a_server_run_needs_a_rate_first(planned, datacenter, tmp_path):
    words = ("--round", "v5.1", "--system-type", "datacenter")
    _, found, _ = planned(*words)
    assert [run["role"] for run in found["runs"]] == ["search", *ROLES, *ROLES]
    assert found["runs"][0]["command"].endswith("find_peak=true")
    assert found["runs"][1]["command"].endswith("scenario.target_qps=QPS")
    places = copy_records(datacenter, tmp_path / "runs")
    shutil.rmtree(places / "Server/test04")
    edit(places / "Server/performance/record.json",
         lambda r: r.config["scenario"].update(target_qps=1.9))  # fmt: skip
    _, found, _ = planned(places, *words)
    left = [run for run in found["runs"] if not run["record"]]
    assert [(run["scenario"], run["role"]) for run in left] == [("Server", "TEST04")]
    assert "scenario.target_qps=1.9 compliance=test04" in left[0]["command"]


@pytest.mark.parametrize(
    ("scenario", "status", "said"),
    [
        ("LoadCurve", "ok", "is no run of LoadGen's"),
        ("Offline", "failed", "is failed"),
    ],
)
def test_a_record_without_loadgens_logs_is_named(scenario, status, said, tmp_path, capsys):
    config = {
        "round": "v6.1",
        "rules": "open",
        "mode": "performance",
        "scenario": {"name": scenario},
    }
    record = Record("k", config, "python run.py", status)
    for draft in (False, True):
        asked = Asked(Round("v6.1"), "open", "Us", "box", "edge", draft)
        (problem,) = refused(Run(tmp_path / "record.json", record), asked)
        assert said in problem.what
    (tmp_path / "record.json").write_text(json.dumps(record.to_json()))
    assert verdict([str(tmp_path)]) == 3
    assert "no record there has LoadGen's logs" in capsys.readouterr().err


def test_the_open_division_needs_no_audit_and_no_system_is_promised_too_much(planned):
    words = ("--system-type", "datacenter")
    _, found, _ = planned(*words, "--division", "open")
    assert [run["role"] for run in found["runs"] if run["scenario"] == "Offline"] == ROLES[:2]
    assert "scenario.min_query_count=500" in next(
        run["command"] for run in found["runs"] if run["scenario"] == "Offline"
    )
    code, found, said = planned(*words)
    assert code == 2 and "edge only" in said
    assert {*EDGE, *DATACENTER} == {"Offline", "Server", "SingleStream"}
