"""One child per measurement: the parent always gets an answer, and no child stays."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from sdxl.core import forking, isolate
from sdxl.core.errors import StageError, UserError
from tests.conftest import ROOT


def answer(link, value):
    print("printed by the child")
    return {"value": value, "pid": os.getpid(), "session": os.getsid(0)}


def report(link, count):
    for number in range(count):
        link.report({"phase": "measuring", "done": number})
        time.sleep(0.05)
    return count


def say_nothing(link, phase):
    link.report({"phase": phase})
    time.sleep(600)


def repeat_oneself(link):
    while True:
        link.report({"phase": "measuring", "done": 3})
        time.sleep(0.05)


def raise_foreign(link):
    raise ZeroDivisionError("by nothing")


def raise_ours(link):
    raise UserError("the file is missing", "x.tsv", "a file", "dataset.path=FILE")


def fail_from_a_thread(link):
    import threading

    threading.Thread(target=link.fail, args=(StageError("bad picture"),)).start()
    time.sleep(600)


def die(link, number):
    os.kill(os.getpid(), number)
    time.sleep(600)


def die_in_a_message(link):
    fd = link._connection.fileno()
    os.write(fd, (1000).to_bytes(4, "big") + b"half of it")  # a length, then less than that
    os.kill(os.getpid(), signal.SIGKILL)


def leave(link, code):
    os._exit(code)


def start_a_grandchild(link):
    grandchild = subprocess.Popen(["sleep", "600"])
    link.report({"phase": "measuring", "grandchild": grandchild.pid})
    time.sleep(600)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Modules of a server that runs already: a child begins in hundredths of a second."""
    log = tmp_path_factory.mktemp("server") / "log"
    isolate.run(answer, 0, log=log, limit_s=60, on_report=print, preload=(__name__,))
    return (__name__,)


@pytest.fixture
def run(tmp_path, server):
    """Run in a child; afterwards none is left."""
    reports = []

    def start(work, *args, limit_s=60.0, preload=server):
        return isolate.run(
            work, *args, log=tmp_path / "log", limit_s=limit_s, on_report=reports.append,
            preload=preload,
        )  # fmt: skip

    start.reports, start.log = reports, tmp_path / "log"
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    yield start
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    # The server that children are forked from, and multiprocessing's tracker, stay on purpose.
    serving = ("forkserver", "resource_tracker")
    assert not [p for p in left if not any(word in " ".join(p.cmdline()) for word in serving)
                and p.status() != psutil.STATUS_ZOMBIE]  # fmt: skip


@pytest.mark.parametrize("preload", [(), (__name__,)], ids=["new", "forked"])
def test_the_result_comes_back_from_another_process(run, preload, capfd):
    found = run(answer, 42, preload=preload)
    assert found["value"] == 42
    assert found["pid"] != os.getpid() and found["session"] == found["pid"]
    assert "printed by the child" in run.log.read_text()
    assert "printed" not in capfd.readouterr().out


@pytest.mark.slow
def test_the_preloaded_server_answers_too_and_fast(run):
    libraries = (*forking.LIBRARIES, __name__)
    run(answer, 1, preload=libraries)  # pays the imports, in a server for the other
    began = time.perf_counter()
    assert run(answer, 2, preload=libraries)["value"] == 2
    assert time.perf_counter() - began < 2


def test_reports_arrive_in_order_and_keep_the_child_alive(run):
    assert run(report, 20, limit_s=8.0) == 20
    assert [message["done"] for message in run.reports] == list(range(20))


def test_a_foreign_exception_brings_its_traceback(run):
    with pytest.raises(isolate.WorkerFailed, match="ZeroDivisionError: by nothing") as caught:
        run(raise_foreign)
    assert "raise_foreign" in caught.value.trace
    assert "raise_foreign" in run.log.read_text()
    assert caught.value.exit_code == 1


def test_our_own_error_keeps_its_parts_and_its_exit_code(run):
    with pytest.raises(Exception, match="the file is missing") as caught:
        run(raise_ours)
    (problem,) = caught.value.problems
    assert (problem.got, problem.expected, problem.fix) == ("x.tsv", "a file", "dataset.path=FILE")
    assert caught.value.exit_code == 2 and isinstance(caught.value, UserError)


def test_a_failure_in_any_thread_ends_the_child(run):
    began = time.monotonic()
    with pytest.raises(Exception, match="bad picture"):
        run(fail_from_a_thread)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_death_by_a_signal_is_named(run, number):
    with pytest.raises(isolate.WorkerDied, match=signal.Signals(number).name):
        run(die, number)


def test_death_in_the_middle_of_a_message_is_death(run):
    with pytest.raises(isolate.WorkerDied, match="SIGKILL"):
        run(die_in_a_message)


def test_death_by_exit_is_named(run):
    with pytest.raises(isolate.WorkerDied, match="exit code 9"):
        run(leave, 9)


@pytest.mark.parametrize(
    ("phase", "setting"), [("loading", "scenario.startup_s"), ("measuring", "scenario.stall_s")]
)
def test_silence_is_ended_and_the_limit_named(run, phase, setting):
    began = time.monotonic()
    with pytest.raises(isolate.WorkerStalled, match=f"while {phase}") as caught:
        run(say_nothing, phase, limit_s=1.5)
    assert 1.4 < time.monotonic() - began < 20
    assert setting in caught.value.problems[0].fix


def test_saying_the_same_again_is_silence(run):
    with pytest.raises(isolate.WorkerStalled):
        run(repeat_oneself, limit_s=1.5)


def test_what_the_child_started_dies_with_it(run):
    with pytest.raises(isolate.WorkerStalled):
        run(start_a_grandchild, limit_s=1.5)
    grandchild = run.reports[0]["grandchild"]
    until = time.monotonic() + 60
    while psutil.pid_exists(grandchild):
        if psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE:
            break
        assert time.monotonic() < until
        time.sleep(0.05)


PARENT = """
import sys, time
from pathlib import Path
from sdxl.core import isolate

def work(link):
    import os
    link.report({"phase": "measuring", "pid": os.getpid()})
    time.sleep(600)

if __name__ == "__main__":
    from parent import work  # by name: children do not run the command's file
    isolate.run(work, log=Path(sys.argv[1]), limit_s=600, preload=(),
                on_report=lambda message: print(message["pid"], flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_child_follows_its_parent(tmp_path, number):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "log")],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    child = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(number)
    parent.wait(100)
    parent.stdout.close()
    _, alive = psutil.wait_procs([child], timeout=60)
    for process in alive:
        process.kill()
    assert not alive


BAR = """
import os, sys
from pathlib import Path
from sdxl.core import isolate

def work(link, killed):
    from tqdm import tqdm
    assert list(tqdm(range(3))) == [0, 1, 2]
    if killed:
        os.kill(os.getpid(), 9)
    return "drawn"

if __name__ == "__main__":
    from parent import work
    for killed in (False, True):
        try:
            print(isolate.run(work, killed, log=Path(sys.argv[1]), limit_s=200, preload=(),
                              on_report=print))
        except isolate.WorkerDied:
            print("killed")
"""


def test_a_bar_in_a_child_leaves_no_semaphore_however_it_ends(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(BAR)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "log")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.stdout.split() == ["drawn", "killed"]
    assert done.stderr == "", "multiprocessing's tracker warns there of what leaked"
