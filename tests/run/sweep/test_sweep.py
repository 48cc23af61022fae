"""Multiruns: looked ahead, isolated cell by cell, resumed after any end, truthful in their sums."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from sdxl.model import images
from tests.conftest import ROOT, words_of

FAST = ("backend=fake", "scenario.min_duration_ms=0", "limit=8", "quality.keep_images=1",
        "backend.sample_ms=0.5")  # fmt: skip


def started(folder):
    """When each cell's measurement began: a cell taken over keeps the time of the first."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*/record.json"))]
    return {record["key"]: record["started"] for record in records}


@pytest.mark.slow
def test_bad_cells_end_in_records_and_the_good_ones_are_measured(cli):
    done = cli("-m", *FAST, "backend.fail=none,raises,kill,hang,constant", "seed=1,2",
               "backend.fail_at=17", "scenario.stall_s=2", timeout=200)  # fmt: skip
    statuses = [record["status"] for record in done.records()]
    assert statuses == ["ok", "ok", *["failed"] * 4, "timeout", "timeout", "failed", "failed"]
    reasons = [record["reason"] for record in done.records()]
    assert "asked to fail" in reasons[2] and "SIGKILL" in reasons[4] and "2 s" in reasons[6]
    assert "constant" in reasons[8]
    assert done.code == 1
    assert done.json["cells"] == 10 and done.json["ok"] == 2
    assert done.json["failed"] == 6 and done.json["timeout"] == 2


def test_a_repeated_sweep_measures_only_what_is_missing(cli):
    first = cli("-m", *FAST, "seed=1,2")
    again = cli("-m", *FAST, "seed=1,2,3")
    assert again.json["cached"] == 2 and again.json["ok"] == 3
    before, after = started(first.dir), started(again.dir)
    assert before.items() < after.items()
    assert (again.dir / "0" / "images" / "000000.png").is_file()
    assert "measured" in again.err and "rerun=all" in again.err
    anew = cli("-m", *FAST, "seed=1,2", "rerun=all")
    assert anew.json["cached"] == 0
    assert not set(started(anew.dir).values()) & set(before.values())


def test_a_sweep_that_grew_at_its_front_moves_its_cells_within_its_folder(cli):
    first = cli("-m", *FAST, "seed=1,2")
    again = cli("-m", *FAST, "seed=0,1,2", out_dir=first.dir)
    assert again.json["cached"] == 2 and again.json["ok"] == 3
    assert [record["config"]["seed"] for record in again.records()] == [0, 1, 2]
    for number, record in enumerate(again.records()):
        (image,) = record["images"]
        path = first.dir / str(number) / image["file"]
        assert images.pixel_hash(images.load(path)) == image["sha256"]


def test_a_single_run_measures_even_if_a_sweep_did(cli):
    cli("-m", *FAST, "seed=1,2")
    assert "cached" not in cli(*FAST, "seed=1").json


def test_failed_cells_are_measured_again_unless_rerun_is_never(cli):
    words = ("-m", *FAST, "seed=1,2", "backend.fail=raises", "backend.fail_at=17")
    assert cli(*words).json["failed"] == 2
    assert cli(*words).json["cached"] == 0
    kept = cli(*words, "rerun=never")
    assert kept.json["cached"] == 2 and kept.code == 1


def test_fail_fast_ends_the_sweep_and_says_so(cli):
    done = cli("-m", *FAST, "backend.fail=raises,none", "backend.fail_at=17", "seed=1,2",
               "fail_fast=true")  # fmt: skip
    assert done.json["failed"] == 1 and done.json["skipped"] == 3
    assert done.code == 1


def test_the_plan_of_a_sweep_names_refused_cells_and_runs_nothing(cli):
    done = cli("-m", "quant_level=1,7", "alpha=0.5,3", "plan=true")
    assert done.code == 2 and done.json["planned"] == 1 and done.json["failed"] == 3
    assert "`quant_level` does not exist" in done.err and "`alpha` is out of range" in done.err
    assert not done.dir.exists() or not list(done.dir.glob("*/record.json"))


def test_a_refused_cell_does_not_stop_the_others(cli):
    done = cli("-m", *FAST, "seed=1,-1,2")
    assert done.json["ok"] == 2 and done.json["failed"] == 1
    assert done.code == 2


def test_timeout_ends_a_cell_that_only_seems_alive(cli):
    done = cli(*FAST, "backend.latency_ms=300", "scenario.min_query_count=400", "timeout_s=4")
    assert done.record["status"] == "timeout" and "4 s" in done.record["reason"]
    assert done.code == 1


def test_repeats_report_the_median_and_all_rates(cli):
    done = cli(*FAST, "repeat=3")
    found = done.record["performance"]
    assert len(found["repeats"]) == 3
    assert found["images_per_second"] == sorted(found["repeats"])[1]
    assert (done.dir / "images" / "000000.png").is_file()
    assert (done.dir / "loadgen" / "mlperf_log_summary.txt").is_file()


@pytest.mark.slow
def test_a_sweep_killed_at_any_moment_and_resumed_measures_each_cell_once(tmp_path):
    """SIGKILL the command at random moments until it gets through; nothing finished is repeated."""
    moments = random.Random(7)
    words = ["-m", *FAST, "seed=1,2,3"]
    finished: dict[str, set[str]] = {}
    for attempt in range(12):
        out = tmp_path / f"attempt{attempt}"
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *words_of(words, out)],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        patience = moments.uniform(1.5, 4.5) if attempt < 10 else 120
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for key, when in started(out).items():
            finished.setdefault(key, set()).add(when)
        if process.returncode == 0:
            break
    assert process.returncode == 0, "the sweep never got through"
    assert len(finished) == 3
    assert all(len(times) == 1 for times in finished.values()), finished


@pytest.mark.slow
def test_two_sweeps_on_one_store_and_one_database_finish(tmp_path):
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    words = ["-m", *FAST, "seed=1,2", f"tracking.uri={uri}"]
    both = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *words_of(words, tmp_path / name)],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    ends = [process.communicate(timeout=200) for process in both]
    for process, (out, err) in zip(both, ends, strict=True):
        assert process.returncode == 0, err
        assert json.loads(out.splitlines()[-1])["ok"] == 2
        assert "warning" not in err
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("sdxl").experiment_id])
    parents = [run for run in runs if run.data.tags.get("sweep") == "true"]
    cells = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert 1 <= len(parents) <= 2 and 2 <= len(cells) <= 4
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_equal_quantization_settings_have_one_identity(load):
    from sdxl.run import identity

    keys = {identity.identity(load("quant_level=1", f"alpha={alpha}")) for alpha in (0.2, 0.8)}
    assert len(keys) == 1
    assert identity.identity(load("quant_level=2", "alpha=0.2")) not in keys


def test_the_ledger_forgets_when_the_code_changes(tmp_path, monkeypatch, load):
    from sdxl.config.schema import Rerun
    from sdxl.core import records
    from sdxl.run import identity, ledger

    record = identity.new(load("backend=fake"))
    record.status = "ok"
    path = records.write(record, tmp_path / "cell")
    ledger.remember(record, path)
    assert ledger.recall(record.key, Rerun.failed) is not None
    assert ledger.recall(record.key, Rerun.all) is None
    monkeypatch.setattr(ledger, "place", lambda: "another-place")
    assert ledger.recall(record.key, Rerun.failed) is None


def test_ctrl_c_keeps_what_was_finished(tmp_path):
    out = tmp_path / "sweep"
    words = words_of(["-m", *FAST, "backend.latency_ms=200", "seed=1,2,3,4,5,6"], out)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (out / "2" / "worker.log").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    text, err = process.communicate(timeout=200)
    last = json.loads(text.splitlines()[-1])
    assert process.returncode == 1 and last["ok"] >= 2, err
    assert "Traceback" not in err
