"""Processes forked from a server: what it has imported, and how they end."""

import os
import signal
import subprocess
import sys
import threading
import time

from sdxl.core import forking
from tests.conftest import ROOT

LIGHT = ("colorsys", "sndhdr")
"""Modules of the standard library that nothing else imports."""
SCRIPT = """
import multiprocessing, os, sys
from sdxl.core import forking

print("this file runs")
for modules in ({0}[:1], {0}, {0}[:1], ()):
    context = forking.method(modules)
    ours, theirs = context.Pipe()
    code = "os.write(1, ascii([n in sys.modules for n in {0}]).encode() + bytes([10]))"
    process = context.Process(target=exec, args=("import os, sys; " + code, {{}}))
    forking.begin(process, 60)
    process.join()
"""


def test_a_server_has_what_is_asked_for_and_no_child_runs_the_commands_file(tmp_path):
    """Without a guard: `if __name__` is what multiprocessing would want of each such file."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(LIGHT))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "this file runs", "[True, False]", "[True, True]", "[True, True]", "[False, False]",
    ], done.stderr  # fmt: skip


def test_each_end_is_told_to_whoever_asks_however_many_ask_at_once():
    context = forking.method(("sdxl.core.forking",))
    processes = [context.Process(target=time.sleep, args=(600,)) for _ in range(8)]
    for process in processes:
        forking.begin(process, 60)
    threads = [threading.Thread(target=process.join) for process in processes * 3]
    for thread in threads:
        thread.start()
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        context.active_children()  # asks of all, as each start of a process does
    for thread in threads:
        thread.join()
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 8
