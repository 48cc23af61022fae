"""The line that measures a cell of a sweep alone."""

from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig

from sdxl.config import words
from sdxl.config.compose import Composer
from sdxl.run import command_line, identity
from sdxl.run.command_line import alone
from sdxl.run.sweep.cells import combinations
from tests import composing
from tests.conftest import ROOT

SWEEPS = sorted(file.stem for file in (ROOT / "conf/sweep").glob("*.yaml"))


@pytest.fixture(scope="module")
def composer():
    return Composer("run")


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_cell_of_each_sweep_is_one_run_of_the_same_work(composer, sweep):
    _, cells, _ = combinations(composer, [f"+sweep={sweep}", "limit=4"])
    cell = composing.fit(cells[0])
    line = alone(cell)
    assert not any(word.startswith("+sweep") for word in line)
    assert not words.problems_of("run", words.read("run", line))
    found, wanted = (identity.identity(composer.config(each)) for each in (line, cell))
    assert found == wanted


def test_what_is_typed_stands_and_a_sweep_of_ones_own_is_left_as_it_is():
    assert alone(["rules=closed", "+sweep=shortcuts", "limit=4"]) == ["rules=closed", "limit=4"]
    assert alone(["+sweep=shortcuts", "limit=4"]) == ["rules=open", "limit=4"]
    assert alone(["+sweep=mine", "seed=1"]) == ["+sweep=mine", "seed=1"]


def test_a_sweep_of_ones_own_folder_is_a_line_too(tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/mine.yaml").write_text("rules: open\nhydra: {mode: MULTIRUN}\n")
    line = command_line.line_of("run", ["+sweep=mine", "seed=1"], str(tmp_path))
    assert line == f"python run.py --config-dir={tmp_path} rules=open seed=1"


def test_a_run_keeps_the_folder_that_was_added(monkeypatch, tmp_path):
    added = SimpleNamespace(provider="command-line", path=str(tmp_path))
    ours = SimpleNamespace(provider="main", path=str(ROOT / "conf"))
    hydra = SimpleNamespace(
        overrides=SimpleNamespace(task=["+experiment=mine"]),
        runtime=SimpleNamespace(config_sources=[ours, added]),
    )
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    monkeypatch.setattr("sys.argv", ["run.py"])
    found = command_line.command_line()
    assert found == f"python run.py --config-dir={tmp_path} +experiment=mine"
