"""One command per process: its words, its outcomes, and nothing that outlives it."""

import sys

import pytest

from sdxl.core.command import Outcome
from sdxl.core.errors import UserError
from sdxl.run.sweep import current
from sdxl.run.sweep.current import Command


def test_words_that_ask_for_information():
    assert Command(["run.py", "-m", "--help"]).asks_help
    assert Command(["run.py", "--cfg", "job"]).asks_hydra
    assert Command(["run.py", "--info=config"]).asks_hydra
    assert not Command(["run.py", "--cfg", "job", "--help"]).asks_hydra
    plain = Command(["run.py", "limit=8"])
    assert not plain.asks_help and not plain.asks_hydra


def test_outcomes_end_with_the_command():
    with current.begun(["run.py"]) as first:
        current.command().outcomes.append(Outcome())
        assert first.ended() == [Outcome()] and current.command() is first
    with current.begun(["run.py"]) as second:
        assert second.ended() == []


def test_a_launchers_process_has_no_sweep():
    assert current.command() is not current.command()
    with pytest.raises(UserError, match="with -m"):
        current.sweep()


def test_hydra_reads_the_sweeps_folder_and_the_words_are_restored(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["run.py", "-m"])
    this = Command(["run.py", "-m", "seed=1,2"])
    with this._sweep_dir(tmp_path / "it's"):
        assert sys.argv == ["run.py", "-m", "seed=1,2",
                            f"hydra.sweep.dir='{tmp_path}/it\\'s'"]  # fmt: skip
    assert sys.argv == ["run.py", "-m"]
