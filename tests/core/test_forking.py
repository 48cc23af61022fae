"""Processes forked from a server: what it has imported, and how they end."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

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


@pytest.mark.slow
def test_children_run_the_code_of_their_parent(tmp_path):
    """Another package of the name is installed, as from another checkout."""
    (tmp_path / "installed/sdxl").mkdir(parents=True)
    (tmp_path / "installed/sdxl/__init__.py").touch()
    parent = tmp_path / "parent.py"
    parent.write_text(f"""
import sys
sys.path[:0] = [{str(ROOT)!r}]
from pathlib import Path
from sdxl.core import isolate
if __name__ == "__main__":
    print(isolate.run(repr, log=Path("log"), limit_s=200, on_report=print))
""")
    done = subprocess.run(
        [sys.executable, str(parent)], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "sdxl.core.isolate.Link" in done.stdout


@pytest.mark.parametrize(
    ("what", "limit_s", "said"),
    [("os._exit(9)", 200, "it died"), ("time.sleep(99)", 1, "silent for 1 s")],
)
def test_a_server_that_cannot_begin_is_named(tmp_path, what, limit_s, said):
    """As where memory is limited: the import of torch ends it, or OpenBLAS tries for ever."""
    script = tmp_path / "parent.py"
    script.write_text(f"""
from pathlib import Path
from sdxl.core import isolate
if __name__ == "__main__":
    try:
        isolate.run(repr, log=Path("log"), limit_s={limit_s}, on_report=print)
    except isolate.WorkerDied as error:
        print(error)
""")
    code = f"import os, sys, time\n'forkserver' in ' '.join(sys.orig_argv) and {what}\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    done = subprocess.run([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": paths},
                          cwd=tmp_path, capture_output=True, text=True, timeout=200)  # fmt: skip
    assert "could not begin" in done.stdout and said in done.stdout, done.stderr
