"""The JSON line of each kind of outcome: its keys in their order, which scripts may read."""

import pytest

from sdxl.core.command import Outcome, ended, summary
from sdxl.core.errors import UserError
from tests.conftest import ROOT

MEASURED = Outcome(
    reason=None, record="0/record.json", command="python run.py",
    figures={"images_per_second": 2.0, "comparable": False},
)  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Outcome.failed("no room", 1),
         {"status": "failed", "reason": "no room", "record": None, "exit_code": 1}),
        (MEASURED,
         {"status": "ok", "reason": None, "record": "0/record.json", "images_per_second": 2.0,
          "comparable": False, "command": "python run.py", "exit_code": 0}),
        (Outcome(command="python run.py", tracked={"mlflow_run": None}),
         {"status": "ok", "reason": None, "record": None, "command": "python run.py",
          "exit_code": 0, "mlflow_run": None}),
        (Outcome(command="python run.py", cached="measured then"),
         {"status": "ok", "reason": None, "record": None, "command": "python run.py",
          "exit_code": 0, "cached": "measured then"}),
        (Outcome(figures={"key": "abc", "bytes": 7}),
         {"status": "ok", "exit_code": 0, "record": None, "key": "abc", "bytes": 7}),
    ],
    ids=["failed", "measured", "tracked", "cached", "made"],
)  # fmt: skip
def test_the_json_line_of_a_job(outcome, line):
    assert list(outcome.line().items()) == list(line.items())


def test_the_json_lines_of_small_commands(capsys):
    def refuse():
        raise UserError("no such file")

    assert [ended(lambda: {"cells": 3}), ended(refuse), ended(lambda: None)] == [0, 2, 0]
    assert capsys.readouterr().out.splitlines() == [
        '{"status": "ok", "exit_code": 0, "cells": 3}',
        '{"status": "failed", "reason": "no such file", "exit_code": 2}',
    ]


def test_the_sum_of_a_multirun_has_the_worst_exit_code():
    found = summary([MEASURED, Outcome("invalid", 3, cached="before"), Outcome.failed("", 1)])
    assert list(found) == ["status", "cells", "ok", "invalid", "failed", "timeout", "skipped",
                           "planned", "not_started", "cached", "records", "exit_code"]  # fmt: skip
    assert (found["status"], found["cells"], found["cached"], found["exit_code"]) == (
        "failed", 3, 1, 1,
    )  # fmt: skip
    assert found["records"] == ["0/record.json", None, None]


def test_a_signal_that_a_library_made_another_error_of_is_an_interruption(cli, tmp_path):
    """As argparse does; in a process of its own: a signal in this one is its worker's, too."""
    script = tmp_path / "small.py"
    script.write_text(MASKED)
    done = cli(script=script)
    assert done.code == 1 and "Traceback" not in done.err
    assert done.json["reason"] == "interrupted"


MASKED = f"""
import signal, sys

sys.path.insert(0, {str(ROOT)!r})
from sdxl.core.command import ended


def work():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise AttributeError("no `_actions`") from None


sys.exit(ended(work))
"""
