"""Records in MLflow: whole, once, and as what they are."""

import getpass
import json
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from sdxl.config import schema
from sdxl.core import records
from sdxl.core.command import Outcome
from sdxl.core.errors import SdxlError
from sdxl.report.mlflow import client, content, sweeps
from sdxl.report.mlflow.command import main as commands
from tests import sweep_of_records
from tests.conftest import ROOT
from tests.report.mlflow.mlflow_store import files, runs


def lost(*_, **__):
    raise SdxlError("lost")


def test_a_record_becomes_a_whole_run(store, measured):
    run_id = client.upload(measured / "record.json", store.settings)
    run, record = store.client.get_run(run_id), records.read(measured / "record.json")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tiny_random fake fp32 Offline"
    params = run.data.params
    assert params["backend.name"] == "fake" and params["limit"] == "8"
    assert params["model.guidance"] == "8.0" and len(params) > 50
    metrics = run.data.metrics
    assert metrics["images_per_second"] == record.performance.images_per_second
    assert metrics["samples_per_second"] == record.performance.value
    assert metrics["latency_p99_ms"] == record.performance.latency_ms["p99"]
    assert metrics["valid"] == 1 and metrics["peak_rss_gib"] > 0
    tags = run.data.tags
    assert tags["key"] == record.key and tags["status"] == "ok" and tags["comparable"] == "false"
    assert tags["command"].startswith("python run.py backend=fake")
    assert {"git_commit", "git_dirty", "scenario", "model", "quant", "backend"} <= tags.keys()
    logged = files(store.client, run_id)
    assert {
        "record.json", "config.yaml", "environment.json", "images.png", "worker.log",
        "loadgen/mlperf_log_summary.txt", "loadgen/mlperf_log_detail.txt", "hydra/overrides.yaml",
    } <= logged  # fmt: skip
    for index in range(8):  # fixed keys, so that MLflow's image grid compares runs
        assert any(name.startswith(f"images/prompt_{index:02d}") for name in logged)
    assert any(key.startswith("images") or "mlflow.loggedImages" in key for key in tags)


def test_a_run_says_what_it_was_made_from(store, measured, tmp_path):
    folder = shutil.copytree(measured, tmp_path / "cell")
    record = json.loads((folder / "record.json").read_text())
    made = {"kind": "checkpoint", "key": "c0ffee", "parents": ["0ddba11"]}
    record["config"]["quant"] |= {"format": "int8", "calib_size": 16}
    (folder / "record.json").write_text(json.dumps(record | {"artifacts": [made]}))
    run = store.client.get_run(client.upload(folder / "record.json", store.settings))
    assert run.data.tags["artifact.checkpoint"] == "c0ffee"
    assert run.data.tags["artifact.checkpoint.parents"] == "0ddba11"
    inputs = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    assert set(inputs) == {"measurement", "calibration"}
    assert json.loads(inputs["measurement"].profile)["prompts"] == 8
    assert json.loads(inputs["calibration"].profile)["prompts"] == 16
    assert inputs["measurement"].name == "builtin" and len(inputs["measurement"].digest) == 8
    assert "plots/latency.png" in files(store.client, run.info.run_id)


def test_a_sweeps_parent_has_its_table_summary_and_pictures(store, tmp_path):
    folder = sweep_of_records.sweep(tmp_path / "sweep")
    parent = sweeps.begin("pareto: alpha", store.settings, folder)
    outcomes = [Outcome(), Outcome.failed("nothing came", 1)]
    parent.end(outcomes, interrupted=False)
    run = store.client.get_run(parent.run_id)
    assert run.info.run_name == "pareto: alpha" and run.info.status == "FAILED"
    assert run.data.metrics == {"cells": 2, "cells_ok": 1, "cells_failed": 1}
    logged = files(store.client, parent.run_id)
    assert {"cells.json", "summary.md", "plots/pareto-1.png", "plots/speed-1.png"} <= logged
    parent.end(outcomes, interrupted=False)  # closed already: nothing more happens


def test_artifacts_lie_beside_their_database_wherever_we_run(
    store, measured, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run_id = client.upload(measured / "record.json", store.settings)
    assert not list((tmp_path / "elsewhere").iterdir())
    (found,) = (tmp_path / "mlruns").rglob("record.json")
    assert run_id in str(found)


def test_uploading_twice_makes_one_run(store, measured):
    first = client.upload(measured / "record.json", store.settings)
    assert client.upload(measured / "record.json", store.settings) == first
    assert len(store.runs()) == 1


def test_two_records_of_the_same_second_are_two_runs(store, measured, tmp_path):
    """Equal cells that start together, on two machines or in two terminals."""
    other = shutil.copytree(measured, tmp_path / "other")
    record = json.loads((other / "record.json").read_text())
    (other / "record.json").write_text(json.dumps({**record, "id": "another"}))
    for folder in (measured, other):
        client.upload(folder / "record.json", store.settings)
    assert len(store.runs()) == 2


def test_an_upload_that_broke_off_is_made_whole(store, measured, tmp_path):
    broken = shutil.copytree(measured, tmp_path / "broken")
    whole = (broken / "images/000003.png").read_bytes()
    (broken / "images/000003.png").write_bytes(b"no picture")
    with pytest.raises(Exception, match="cannot identify image"):
        client.upload(broken / "record.json", store.settings)
    (run,) = store.runs()
    assert run.info.status == "FAILED"
    (broken / "images/000003.png").write_bytes(whole)
    run_id = client.upload(broken / "record.json", store.settings)
    (run,) = store.runs()
    assert run.info.run_id == run_id and run.info.status == "FINISHED"
    assert any("prompt_07" in name for name in files(store.client, run_id))


def test_numbers_that_mlflow_would_garble_are_left_out(measured):
    record = records.read(measured / "record.json")
    record.performance.images_per_second = float("inf")
    record.performance.latency_ms["p99"] = float("nan")
    record.performance.tflops = None
    found = content.metrics(record)
    assert not {"images_per_second", "latency_p99_ms", "tflops"} & found.keys()
    assert "latency_p50_ms" in found


@pytest.mark.parametrize("status", ["failed", "timeout", "invalid", "skipped"])
def test_other_outcomes_are_logged_as_what_they_are(store, measured, tmp_path, status):
    folder = shutil.copytree(measured, tmp_path / "cell")
    record = json.loads((folder / "record.json").read_text())
    record |= {"status": status, "reason": "because"}
    if status in ("failed", "timeout"):
        record |= {"performance": {}, "images": [], "resources": {}, "durations": {}}
    (folder / "record.json").write_text(json.dumps(record))
    run = store.client.get_run(client.upload(folder / "record.json", store.settings))
    assert run.info.status == ("FINISHED" if status == "skipped" else "FAILED")
    assert (run.data.tags["status"], run.data.tags["reason"]) == (status, "because")


def test_a_run_lasts_as_long_as_its_measurement_whenever_it_is_uploaded(store, measured):
    record = records.read(measured / "record.json")
    run = store.client.get_run(client.upload(measured / "record.json", store.settings))
    lasted_ms = run.info.end_time - run.info.start_time
    assert lasted_ms == round(1e3 * record.durations["total_s"]) > 100
    began = datetime.fromtimestamp(run.info.start_time / 1e3, UTC)
    assert f"{began:%Y-%m-%dT%H:%M:%SZ}" == record.started
    assert run.data.tags["mlflow.source.name"] == "run.py"
    assert run.data.tags["mlflow.source.type"] == "LOCAL"
    assert run.data.tags["mlflow.user"] == getpass.getuser()
    assert run.data.tags["mlflow.source.git.commit"] == record.environment.git.commit


def test_simulated_speed_has_names_of_its_own(measured):
    """So that no chart or filter ranks it beside a real one."""
    record = records.read(measured / "record.json")
    real = content.metrics(record)
    record.config["backend"]["name"] = "torch"
    record.performance.generator.simulated = True
    found = content.metrics(record)
    fast = {"images_per_second", "samples_per_second", "latency_p99_ms", "latency_mean_ms"}
    assert fast <= real.keys() and not fast & found.keys()
    assert {f"simulated_{name}" for name in fast} <= found.keys()
    assert found["peak_rss_gib"] == real["peak_rss_gib"]
    assert content.tags(record)["simulated"] == "true"


def test_the_line_for_later_uploads_to_where_it_should_have_gone(
    store, measured, tmp_path, monkeypatch, capsys
):
    folder = shutil.copytree(measured, tmp_path / "a cell")
    experiment = store.client.create_experiment("trial", (tmp_path / "artifacts").as_uri())
    parent = store.client.create_run(experiment).info.run_id
    with monkeypatch.context() as dead:
        dead.setattr(client, "asked", lost)
        client.log(folder / "record.json", store.settings, parent)
    line = capsys.readouterr().err.splitlines()[-1]
    words = shlex.split(line)
    assert words[:5] == ["python", "-m", "sdxl", "mlflow", "upload"]
    assert commands(words[4:]) == 0
    run = next(run for run in store.runs() if run.info.run_id != parent)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert json.loads(capsys.readouterr().out)["runs"] == {words[5]: run.info.run_id}


def test_the_line_for_later_is_short_and_has_no_secret(measured, monkeypatch, capsys):
    monkeypatch.setattr(client, "asked", lost)
    path = measured / "record.json"
    for settings, end in [
        (schema.Tracking("mlflow"), f" {path}"),
        (schema.Tracking("mlflow", uri="http://me:s3cret@host:5000"), " --uri http://host:5000"),
    ]:
        client.log(path, settings)
        err = capsys.readouterr().err
        assert err.endswith(f"{end}\n") and "s3cret" not in err and "--experiment" not in err


def test_uploading_says_what_is_not_there(tmp_path, capsys):
    assert commands(["upload", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "no such record" in err
    assert json.loads(out)["status"] == "failed"


@pytest.mark.slow
def test_two_first_uses_of_one_database_at_once(measured, tmp_path):
    """MLflow itself breaks here: two processes that create the tables together."""
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    processes = []
    for number in range(2):
        folder = shutil.copytree(measured, tmp_path / f"cell{number}")
        record = json.loads((folder / "record.json").read_text())
        (folder / "record.json").write_text(json.dumps({**record, "id": str(number)}))
        line = [sys.executable, "-m", "sdxl", "mlflow", "upload", str(folder), "--uri", uri]
        processes.append(subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=150)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert all(json.loads(out.splitlines()[-1])["status"] == "ok" for out in said)
    found = runs(client._client(uri), "sdxl")
    assert sorted(run.data.tags["record"] for run in found) == list("01")
