"""The small commands end as every command does: one panel, one JSON line, the exit code."""

import json
import sys

import pytest

from sdxl import cli
from sdxl.bench.mlperf.submission import command as submission
from sdxl.core import records
from sdxl.core.command import Outcome, ended
from sdxl.core.errors import UserError
from sdxl.report import verdict
from sdxl.report.mlflow import command as tracking
from sdxl.report.terminal import table
from sdxl.run.doctor import command as doctor
from sdxl.run.sweep import current
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("main", "words", "expected"),
    [
        (verdict.main, [], "RECORD|DIR"),
        (submission.main, ["build", "x", "--divison", "open"], "--system"),
        (submission.main, ["check"], "DIR"),
        (tracking.main, ["uplod"], "upload"),
        (doctor.main, ["--checksum", "x"], "unrecognized arguments: x"),
    ],
)
def test_a_mistake_among_the_words_is_a_panel_and_a_json_line(main, words, expected, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert err.count("--- error") == 1 and expected in err
    assert json.loads(out)["status"] == "failed" and json.loads(out)["exit_code"] == 2


def test_what_is_ours_to_mend_has_a_json_line_too(capsys):
    assert ended(lambda: {}["lost"]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" in err
    assert json.loads(out) == {"status": "failed", "reason": "KeyError: 'lost'", "exit_code": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [('{"key": "a", ', "not JSON"), ("[]", "expected an object"), ('{"key": "a"}', "config"),
     (b"\xff\xfe\x00", "utf-8")],
)  # fmt: skip
def test_a_damaged_record_is_named(tmp_path, capsys, text, said):
    path = tmp_path / "cell/record.json"
    path.parent.mkdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match="is no record") as caught:
        records.read(path)
    assert said in str(caught.value)
    assert verdict.main([str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert f"{path} is no record" in err and "Traceback" not in err
    assert json.loads(out)["exit_code"] == 2


def test_mlflows_pages_of_a_broken_database(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.db").write_text("no database at all " * 200)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'broken.db'}")
    assert tracking.main(["ui"]) == 1
    out, err = capsys.readouterr()
    assert "MLflow's store cannot be opened" in err and "broken.db" in err
    assert "Traceback" not in err
    assert "cannot be opened" in json.loads(out.splitlines()[-1])["reason"]


def test_a_table_that_cannot_be_written_costs_no_json_line(monkeypatch, capsys):
    def full(_):
        raise OSError(28, "No space left on device", "latency.md")

    measured = Outcome(record="0/record.json")
    monkeypatch.setattr(table, "show_cells", full)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as stop:
        cli.command(lambda: current.command().outcomes.extend([measured, measured]))
    out, err = capsys.readouterr()
    last = json.loads(out.splitlines()[-1])
    assert stop.value.code == last["exit_code"] == 1 and "Traceback" not in err
    assert last["ok"] == 2 and last["records"] == ["0/record.json"] * 2
    assert last["status"] == "failed" and "No space left on device" in last["reason"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_sweep_that_cannot_be_put_away_ends_with_its_line(monkeypatch, capsys, error):
    """A full disk under its plots is a warning; Ctrl-C during them an interruption."""

    class Sweep:
        only_plan, folder = True, "multirun"

        def outcomes(self):
            return [Outcome(record="0/record.json")]

        def end(self, *_):
            raise error

        def summary(self):
            return {"sweep": "x"}

    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(SystemExit) as stop:
        cli.command(lambda: vars(current.command()).update(sweep=Sweep()))
    out, err = capsys.readouterr()
    last = json.loads(out.splitlines()[-1])
    full = isinstance(error, OSError)
    assert stop.value.code == last["exit_code"] == (0 if full else 1)
    assert last["records"] == ["0/record.json"] and last["status"] == ("ok" if full else "failed")
    assert ("warning: the sweep's end" in err) is full
    assert last.get("reason") == (None if full else "interrupted")


def test_a_signal_that_hydra_made_another_error_of_is_an_interruption(cli, tmp_path):
    """In a process of its own: a signal in this one is its worker's, too."""
    script = tmp_path / "run.py"
    script.write_text(MASKED)
    done = cli(script=script)
    assert done.code == 1 and "Traceback" not in done.err
    assert done.json["reason"] == "interrupted"


MASKED = f"""
import signal, sys

sys.path.insert(0, {str(ROOT)!r})
from sdxl import cli


def begins():
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise AttributeError("no `_actions`") from None


cli.command(begins)
"""
