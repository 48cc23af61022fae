"""The collector of garbage looks less often at imports, and as usual at work."""

import gc
import json
import subprocess
import sys

from tests.conftest import ROOT


def told(code):
    done = subprocess.run([sys.executable, "-c", f"import gc, json\n{code}"], cwd=ROOT,
                          capture_output=True, text=True, timeout=200)  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_it_is_relaxed_and_settled():
    code = "from sdxl.core import collector; collector.relax(); relaxed = gc.get_threshold(); "
    usual, relaxed, settled, frozen = told(
        "usual = gc.get_threshold(); " + code + "collector.settle(); "
        "print(json.dumps([usual, relaxed, gc.get_threshold(), gc.get_freeze_count()]))"
    )
    assert relaxed[0] > 100 * settled[0] and frozen > 1_000
    assert settled == usual


def test_measurements_are_forked_with_the_usual_one_and_nothing_of_the_libraries_to_look_at():
    code = "import sdxl.core.preload; "
    settled, frozen, left = told(
        code + "found = [gc.get_threshold(), gc.get_freeze_count(), len(gc.get_objects())]; "
        "print(json.dumps(found))"
    )
    assert settled == list(gc.get_threshold()) and frozen > 100 * left


def test_what_was_set_aside_is_given_back_at_the_end():
    """Triton's binding counts what is left, and would tell the user of a hundred leaks."""
    code = (
        "import sdxl.core.preload, atexit; before = gc.get_freeze_count(); "
        "atexit._run_exitfuncs(); print(json.dumps([before, gc.get_freeze_count()]))"
    )
    before, after = told(code)
    assert before > 10_000 and after == 0
