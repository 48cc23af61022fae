"""A slice of `benchmarks/faults.py`, and that it would notice what it looks for."""

import sys

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import faults
import fuzz
from _fault_cases import Case, all_cases

GOOD = '{"status": "ok", "exit_code": 0}\n'


def test_the_table_is_whole():
    names = [case.name for case in all_cases()]
    assert len(names) == len(set(names)) >= 120
    kinds = {name.split("/")[0] for name in names}
    assert kinds == {"process", "disk", "memory", "streams", "mlflow", "files", "environment"}


def test_what_does_not_hold_is_noticed(tmp_path):
    for name, text in faults.MINE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    case = Case("files/x", (0,))
    assert not [*faults.faults(case, fuzz.Ended(0, GOOD, ""), tmp_path)]
    assert "exit code 1" in str([*faults.faults(case, fuzz.Ended(1, GOOD, ""), tmp_path)])
    (tmp_path / "notes.txt").unlink()
    assert "was lost" in str([*faults.faults(case, fuzz.Ended(0, GOOD, ""), tmp_path)])


def test_a_damaged_file_is_survived(tmp_path):
    case = next(case for case in all_cases() if case.name == "files/sweep-file-0")
    ended = faults.tried(case, tmp_path / "world")
    assert not [*faults.faults(case, ended, tmp_path / "world")], ended.err
    assert "sweep.json is no sweep's file and is ignored" in ended.err
