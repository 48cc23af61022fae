"""The table that stays in place while a sweep runs, in a real terminal; lines elsewhere."""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from types import SimpleNamespace

import pytest
from rich.console import Console

from sdxl.core.command import Outcome
from sdxl.core.record import Record, Reference
from sdxl.report.terminal.sweep_view import View
from sdxl.run import outcomes
from tests.conftest import ROOT, words_of

FAST = ("backend=fake", "scenario.min_duration_ms=0", "limit=8", "quality.keep_images=1")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def in_a_terminal(words, cwd, lines=40, columns=140):
    """(exit code, everything the command wrote to its terminal)."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words], cwd=cwd, stdin=theirs, stdout=theirs,
        stderr=theirs, env={**env, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 1 << 16):
            said += piece
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    return process.wait(60), said.decode()


def test_a_terminal_gets_one_table_with_status_speed_and_time_left(tmp_path):
    words = ["-m", *FAST, "seed=1,2", "backend.sample_ms=40", "backend.fail=none,raises",
             "backend.fail_at=17", "scenario.min_duration_ms=1500"]  # fmt: skip
    code, said = in_a_terminal(words_of(words, tmp_path / "out"), tmp_path)
    plain = ESCAPES.sub("", said)
    assert code == 1, plain
    titles = re.findall(r"(\d) of 4 cells", plain)
    assert titles[0] == "0" and titles == sorted(titles) and int(titles[-1]) >= 2
    assert "1 failed" in plain and " s left" in plain
    frames = plain.split(" of 4 cells")
    assert any("running" in frame and "waiting" in frame for frame in frames)
    assert re.search(r"measuring \d+/\d+ images", plain), "the running cell reports"
    assert any(re.search(r"│ ok +│ +\d+\.\d{3}", f) and "running" in f for f in frames)
    assert "\x1b[1A" in said and "\x1b[2K" in said, "the table is drawn over itself"
    assert ": running" not in plain, "no lines beside the table"
    assert "asked to fail" in plain, "failures are shown when they happen"
    last = json.loads(plain.splitlines()[-1])
    assert last["ok"] == 2 and last["failed"] == 2


def test_a_long_sweep_shows_the_cells_around_the_running_one():
    from sdxl.core.command import Outcome
    from sdxl.report.terminal.sweep_view import FRAME, View

    class Live:
        class console:  # noqa: N801
            height, width = 20, 140

    view = View([f"seed={n}" for n in range(100)])
    view._live = Live()
    for number in range(50):
        view.running(number)
        view.ended(number, Outcome(figures={"images_per_second": 1.0}), 1.0, 50.0)
    view.running(50)
    shown = view._window()
    assert len(shown) == 20 - FRAME and 49 in shown and 50 in shown and 51 in shown
    table = view.table()
    assert table.row_count == len(shown) and str(table.title).startswith("50 of 100 cells; about")


def test_a_line_says_what_the_psnr_is_the_distance_to(capsys):
    view = View(["seed=0"])
    record = Record(key="k", config={}, command="", status="ok")
    record.quality.reference = Reference(images=3, psnr_db=41.98)
    view.ended(0, outcomes.outcome_of(record, None), 1.0, 0.0)
    assert "41.980 dB to the reference" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_the_table_is_readable_at_every_width(columns):
    """Status, speed, quality and time left whole; a simulated speed in brackets; nothing cut."""
    view = View([f"quant_level={n} alpha=0.5" for n in (1, 2.5, 3)])
    console = Console(width=columns, height=40, file=io.StringIO(), markup=False)
    view._live = SimpleNamespace(console=console)
    view.running(0)
    figures = {"images_per_second": 12.3456, "psnr_db": 41.98}
    view.ended(0, Outcome(figures=figures), 61.0, 125.0)
    doubtful = {**figures, "speed_means_nothing": "quantized arithmetic was simulated"}
    view.running(1)
    view.ended(1, Outcome(figures=doubtful), 1.0, 125.0)
    view.running(2)
    view.listener(2)("measuring 17/64 images")
    console.print(view.table())
    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= columns
    for whole in ("quant_level=2.5 alpha=0.5", " status ", " images/s ", " PSNR dB ", " seconds ",
                  " 12.346 ", "(12.346)", " 41.980 ", "running", "2 of 3 cells; about 125 s left",
                  "measuring 17/64 images"):  # fmt: skip
        assert whole in shown, whole
