"""What goes wrong in a worker or around it ends in a record within seconds, and never in a hang."""

import errno
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from sdxl.config.schema import Rerun
from sdxl.core import command, records
from sdxl.core.record import Performance
from sdxl.run import attempt, identity, outcomes
from tests.conftest import ROOT, words_of

FAST = ("backend=fake", "scenario.min_duration_ms=0", "backend.sample_ms=0.2", "limit=32")
SCENARIOS = ("Offline", "Server", "SingleStream", "MultiStream")


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("raises", "failed", "RuntimeError: the fake backend was asked to fail"),
        ("kill", "failed", "the worker died: SIGKILL"),
        ("hang", "timeout", "nothing happened for"),
        ("not_finite", "failed", "NaN or Inf"),
        ("constant", "failed", "is constant"),
    ],
)
def test_every_fault_ends_in_a_record(cli, scenario, fault, status, reason):
    began = time.monotonic()
    rate = ["scenario.target_qps=50"] if scenario == "Server" else []
    done = cli(*FAST, *rate, f"scenario={scenario}", f"backend.fail={fault}",
               "backend.fail_at=20", "scenario.stall_s=2", "scenario.startup_s=30")  # fmt: skip
    assert time.monotonic() - began < 100
    assert done.code == 1, done.err
    assert done.json["status"] == done.record["status"] == status
    assert reason in done.json["reason"] and reason in done.record["reason"]
    assert done.json["record"] == str(done.dir / "record.json")
    assert status.upper() in done.out
    if fault == "raises":
        assert "_fail" in done.record["environment"]["traceback"]
        assert "_fail" in (done.dir / "worker.log").read_text()


def test_a_fault_during_warm_up_is_recorded_too(cli):
    done = cli(*FAST, "backend.fail=hang", "backend.fail_at=1", "scenario.startup_s=3", timeout=200)
    assert done.code == 1 and done.record["status"] == "timeout"
    assert "while warming up" in done.record["reason"]
    assert "scenario.startup_s=12" in done.err


def test_a_failed_cell_leaves_no_trace_in_the_next_record(cli):
    done = cli("-m", *FAST, "backend.fail_at=3", "backend.fail=raises,none")
    first, second = done.records()
    assert "traceback" in first["environment"] and "traceback" not in second["environment"]


def test_an_unwritable_output_folder_is_the_users_mistake(cli, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = cli(*FAST, out_dir=tmp_path / "file" / "out")
    assert done.code == 2, done.err
    assert "cannot be written" in done.err and "hydra.run.dir=FOLDER" in done.err
    assert done.json["status"] == "failed" and "Traceback" not in done.err


def test_an_output_folder_that_fills_up_half_way_is_no_hang(cli, tmp_path):
    """`loadgen` cannot become a folder: LoadGen would return in silence and abort at exit."""
    out_dir = tmp_path / "taken"
    out_dir.mkdir()
    (out_dir / "loadgen").write_text("in the way")
    done = cli(*FAST, out_dir=out_dir)
    assert done.code == 1, done.err
    assert done.record["status"] == "failed" and "loadgen" in done.record["reason"]


def test_what_cannot_be_written_afterwards_is_recorded_too(cli, tmp_path):
    """The sheet of pictures is in the way here."""
    out_dir = tmp_path / "taken"
    (out_dir / "images.png").mkdir(parents=True)
    (out_dir / "worker.log").touch()  # a folder of ours: somebody else's is refused beforehand
    done = cli(*FAST, out_dir=out_dir)
    assert done.code == 1, done.err
    assert done.record["status"] == "failed" and "Is a directory" in done.record["reason"]
    assert str(out_dir) in done.record["reason"] and "Traceback" not in done.err
    assert "sheet" in done.record["environment"]["traceback"]
    assert done.record["performance"]["images_per_second"] > 0, "what was measured is kept"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "probe.jsonl"), "no space left on"),
        (KeyError("tflops"), "KeyError: 'tflops'"),
    ],
)
def test_a_fault_of_our_own_is_recorded_too(load, tmp_path, monkeypatch, capsys, fault, reason):
    def fail(*_):
        raise fault

    monkeypatch.setattr(attempt, "measure", fail)
    config = load("backend=fake", "tracking=off")
    done = attempt.measure_one(
        config, tmp_path / "cell", identity.new(config), attempt.Context(Rerun.all)
    )
    kept = records.read(tmp_path / "cell/record.json")
    assert done.exit_code == 1 and done.status == kept.status == "failed"
    assert reason in done.reason and reason in kept.reason
    assert "fail" in (kept.environment.traceback or "")
    assert ("Traceback" in capsys.readouterr().err) == isinstance(fault, KeyError)


def test_a_record_that_cannot_be_written_makes_no_ok(load, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    config = load("backend=fake", "tracking=off")
    record = identity.new(config)
    record.status, record.performance = "ok", Performance(images_per_second=7.25)
    done = outcomes.finish(config, tmp_path / "file/cell", record, 0, None)
    assert (done.status, done.record, done.exit_code) == ("failed", None, 1)
    assert "cannot be written" in done.reason and done.figures["images_per_second"] == 7.25
    assert command.summary([done])["ok"] == 0
    out = capsys.readouterr().out
    assert "FAILED" in out and "7.250 images/s" in out


def test_the_captions_are_checked_before_anything_is_loaded(cli, tmp_path):
    path = tmp_path / "captions.tsv"
    path.write_text("id\tcaption\n1\tA cat.\nbad\n")
    done = cli("dataset=coco", f"dataset.path={path}")  # torch is not even imported
    assert done.code == 2 and "line 3: 1 columns of 2" in done.err
    assert not (done.dir / "worker.log").exists()
    done = cli("dataset=coco", "dataset.path=/nowhere.tsv")
    assert done.code == 2 and "python -m sdxl download coco" in done.err


def start(out_dir, *words):
    line = [sys.executable, str(ROOT / "run.py"), *words_of(words, out_dir)]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_phase(process, phase):
    said = ""
    for line in process.stderr:
        said += line
        if line.rstrip().endswith(phase):
            return psutil.Process(process.pid).children(recursive=True)
    raise AssertionError(f"never {phase}: {said}")


@pytest.mark.parametrize("how", ["ctrl-c", "SIGINT", "SIGTERM"])
def test_an_interrupted_run_is_recorded_and_leaves_no_child(tmp_path, how):
    out_dir = tmp_path / "out"
    process = start(out_dir, *FAST, "backend.fail=hang", "backend.fail_at=20")
    children = wait_for_phase(process, "measuring")
    assert children
    time.sleep(0.3)
    if how == "ctrl-c":  # a terminal tells the whole foreground group
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(getattr(signal, how))
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1, err
    check_interrupted(out, out_dir)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert "Traceback" not in err


def check_interrupted(out, out_dir):
    import json

    last = json.loads(out.splitlines()[-1])
    assert (last["status"], last["reason"], last["exit_code"]) == ("failed", "interrupted", 1)
    record = json.loads((out_dir / "record.json").read_text())
    assert (record["status"], record["reason"]) == ("failed", "interrupted")
    assert not list(out_dir.rglob(".record.json.*")), "nothing half-written"


def test_an_interrupted_multirun_stops_and_counts(tmp_path):
    import json

    out_dir = tmp_path / "out"
    process = start(out_dir, "-m", *FAST, "backend.fail=hang", "backend.fail_at=20", "seed=1,2,3")
    wait_for_phase(process, "measuring")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1, err
    assert json.loads((out_dir / "0/record.json").read_text())["reason"] == "interrupted"
    assert not (out_dir / "1/record.json").exists(), "the next cell was not begun"
    last = json.loads(out.splitlines()[-1])
    assert last["status"] == "failed" and last["exit_code"] == 1
    assert (last["cells"], last["failed"], last["not_started"]) == (3, 1, 2), "all are counted"
    assert "0 of 3 cells are done and kept; to go on, type the same command again" in err


def test_the_worker_follows_a_killed_command(tmp_path):
    process = start(tmp_path / "out", *FAST, "backend.fail=hang", "backend.fail_at=20")
    children = wait_for_phase(process, "measuring")
    process.kill()
    process.communicate(timeout=100)
    _, alive = psutil.wait_procs(children, timeout=60)
    for child in alive:
        child.kill()
    assert not alive
