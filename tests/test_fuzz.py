"""A slice of `benchmarks/fuzz.py`, and that it would notice what it looks for."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import fuzz
from _fuzz_values import Hang, limited

GOOD = '{"status": "ok", "exit_code": 0}\n'
REFUSED = '{"status": "failed", "exit_code": 2}\n'


def found(code, out, err="", words=("run",)):
    return " ".join(fuzz.faults(fuzz.Ended(code, out, err), [*words]))


@pytest.mark.parametrize(
    ("ended", "fault"),
    [
        ((1, REFUSED, "Traceback (most recent call last)\nKeyError: 'x'"), "a traceback"),
        ((137, GOOD), "exit code 137"),
        (("hang", ""), "no end"),
        ((0, ""), "no JSON line"),
        ((0, "[1]\n"), "no JSON line"),
        ((0, '{"status": "ok", "exit_code": 1}\n'), "the JSON line says 1"),
        ((0, '{"status": "invalid", "exit_code": 0}\n'), "with status invalid"),
        ((2, REFUSED), "without a message"),
        ((0, "\x1b[31m\n" + GOOD), "control character"),
    ],
)
def test_what_is_wrong_is_noticed(ended, fault):
    assert fault in found(*ended)


def test_a_record_that_says_otherwise_is_noticed(tmp_path):
    record = tmp_path / "record.json"
    record.write_text('{"status": "ok"}')
    line = {"status": "failed", "exit_code": 1, "record": str(record)}
    assert "the record says ok" in found(1, json.dumps(line))


def test_good_endings_are_good():
    assert not found(0, "table\n" + GOOD)
    assert not found(2, REFUSED, "--- error\nx\n---")
    assert not found(0, "usage\n", words=("run", "--help"))


def test_a_hang_ends():
    with pytest.raises(Hang), limited(0.05):
        while True:
            pass


def test_a_fork_ends_as_a_process_does():
    ended = fuzz.in_a_fork(["nonsense"])
    own = fuzz.in_its_own(["nonsense"])
    assert ended.code == own.code == 2
    assert ended.line() == own.line() and ended.err == own.err
    assert fuzz._forks.run(["nonsense"], 0.0)[0] == fuzz._forks.LATE


def test_cases_are_functions_of_seed_and_number(tmp_path):
    fuzz.cases.damage(tmp_path)
    lines = [fuzz.cases.line(1, number, tmp_path) for number in range(50)]
    assert lines == [fuzz.cases.line(1, number, tmp_path) for number in range(50)]
    assert lines != [fuzz.cases.line(2, number, tmp_path) for number in range(50)]


@pytest.mark.slow
def test_a_slice_finds_nothing_and_goes_on(tmp_path):
    """Some fifteen processor seconds: a thousand values and a handful of lines."""
    line = [sys.executable, "benchmarks/fuzz.py", "--lines", "6", "--runs", "1", "--values", "1000",
            "--seed", "11", "--out", str(tmp_path)]  # fmt: skip
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["line"], told["run"], told["value"], told["failed"]) == (6, 1, 1000, 0)
    again = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert json.loads(again.stdout.splitlines()[-1]) == told, "what was tried is not tried again"
