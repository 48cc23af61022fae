"""However a command is ended, and whatever its streams are: a truthful exit code, one JSON line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

FAST = ["backend=fake", "limit=8", "scenario.min_duration_ms=0", "backend.sample_ms=0",
        "model=tiny_random", "quality=none", "tracking=off"]  # fmt: skip
RUN = [sys.executable, str(ROOT / "run.py")]


def started(*words, **named):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **named}
    return subprocess.Popen([*RUN, *FAST, *words], text=True, **streams)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("after_s", [0.3, 1.2])
def test_a_signal_in_the_first_second(tmp_path, number, after_s):
    """The interpreter itself needs a moment before the first line of ours."""
    command = started(f"hydra.run.dir={tmp_path}", f"hydra.sweep.dir={tmp_path}", "-m", "seed=1,2")
    until = time.monotonic() + 20
    while _cpu_s(command.pid) < 0.1 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(after_s)
    command.send_signal(signal.Signals[number])
    out, err = command.communicate(timeout=60)
    line = json.loads(out.splitlines()[-1])
    assert (command.returncode, line["exit_code"], line["reason"]) == (1, 1, "interrupted"), err
    assert "Traceback" not in err and "interrupted" in err


def _cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


def test_nohup_is_respected(tmp_path):
    quiet = started(f"hydra.run.dir={tmp_path}", "plan=true",
                    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # fmt: skip
    time.sleep(0.5)
    quiet.send_signal(signal.SIGHUP)
    quiet.communicate(timeout=60)
    assert quiet.returncode == 0


@pytest.mark.parametrize("shell", ["> /dev/full", ">&-", "2>&-", ">&- 2>&-", "| true",
                                   "> /dev/full 2> /dev/full"])  # fmt: skip
def test_streams_that_cannot_be_written(tmp_path, shell):
    """The record says ok, so does the exit code."""
    if shell == "> /dev/full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    words = " ".join([*RUN, *FAST, f"hydra.run.dir={tmp_path}/out"])
    line = f"{words} {shell}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "record.json").read_text())["status"] == "ok"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    if shell == "2>&-":
        assert json.loads(done.stdout.splitlines()[-1])["status"] == "ok"
    if shell == "> /dev/full":
        assert "standard output could not be written" in done.stderr


def test_a_working_directory_that_was_deleted(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone}; rmdir {gone}; {' '.join([*RUN, *FAST])}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.returncode == json.loads(done.stdout)["exit_code"] == 2
    assert "the working directory was deleted" in done.stderr and "Traceback" not in done.stderr


def test_a_very_long_tmpdir(tmp_path):
    place = tmp_path / ("x" * 110)
    place.mkdir()
    environment = os.environ | {"TMPDIR": str(place)}
    command = started(f"hydra.run.dir={tmp_path}/out", env=environment)
    out, err = command.communicate(timeout=100)
    assert command.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["status"] == "ok"


def test_a_users_own_pictures_stay(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("holiday.png", "000003.png"):
        (tmp_path / "images" / name).write_text("mine")
    command = started("hydra.run.dir=.", cwd=tmp_path)
    _, err = command.communicate(timeout=100)
    assert command.returncode == 2 and "somebody else" in err
    (tmp_path / "images" / "000003.png").unlink()
    for left in ("record.json", "worker.log"):
        (tmp_path / left).unlink(missing_ok=True)
    for _ in range(2):
        command = started("hydra.run.dir=.", cwd=tmp_path)
        _, err = command.communicate(timeout=100)
        assert command.returncode == 0, err
    assert (tmp_path / "images" / "holiday.png").read_text() == "mine"
    shutil.rmtree(tmp_path / "images")


@pytest.mark.parametrize("words", [["doctor"], ["download", "sdxl"], ["run", *FAST]])
def test_small_commands_end_so_too(tmp_path, words):
    line = [sys.executable, "-m", "sdxl", *words]
    command = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while _cpu_s(command.pid) < 0.06:
        time.sleep(0.005)
    time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    out, err = command.communicate(timeout=60)
    assert command.returncode == json.loads(out.splitlines()[-1])["exit_code"] == 1
    assert b"Traceback" not in err
