"""Which record is meant, and the words that draw as it did."""

import pytest

from sdxl.core import records
from sdxl.core.errors import ConfigError, UserError
from sdxl.core.record import Record
from sdxl.run import setting
from sdxl.run.command_line import line_of
from tests.conftest import ROOT

COMMAND = (
    "python run.py model=tiny_random quant=int8 quant_level=3 +experiment=harness_check limit=8 "
    "scenario=Server scenario.target_qps=2 'quality.keep_images=4' tracking=off mode=accuracy "
    "hydra.run.dir=/somewhere seed=3"
)
DRAWING = [
    "model=tiny_random",
    "quant=int8",
    "quant_level=3",
    "+experiment=harness_check",
    "seed=3",
]


@pytest.fixture
def record(tmp_path):
    folder = tmp_path / "cell"
    records.write(Record(key="k", config={}, command=COMMAND, status="ok"), folder)
    return folder


def test_what_is_about_measuring_is_left_out(record):
    assert setting.words_of(setting.record_of(str(record))) == DRAWING


def test_a_record_and_further_words_are_a_configuration(tmp_path):
    command = "python run.py model=tiny_random model.steps=3 rules=open limit=8"
    records.write(Record(key="k", config={}, command=command, status="ok"), tmp_path)
    config = setting.compose(str(tmp_path), ["model.height=64", "rules=open"])
    assert (config.model.name, config.model.steps, config.model.height) == ("tiny_random", 3, 64)
    assert setting.compose(None, []).model.name == "tiny"


def test_a_folder_of_configurations_is_searched_again(tmp_path):
    mine = tmp_path / "m\u00efne"
    (mine / "experiment").mkdir(parents=True)
    (mine / "experiment/own.yaml").write_text("# @package _global_\nseed: 7\n")
    command = line_of("run", ["+experiment=own", "limit=8"], str(mine))
    assert command.startswith("python run.py ") and f"--config-dir={mine}" in command
    records.write(Record(key="k", config={}, command=command, status="ok"), tmp_path)
    assert setting.compose(str(tmp_path), []).seed == 7
    (mine / "experiment/own.yaml").unlink()
    with pytest.raises(ConfigError, match="`experiment` has no option `own`"):
        setting.compose(str(tmp_path), [])
    mine.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="`--config-dir` is no folder"):
        setting.compose(str(tmp_path), [])


def test_every_bad_word_is_named():
    with pytest.raises(ConfigError) as found:
        setting.compose(None, ["quant=foo", "model.stps=3"])
    told = [problem.what for problem in found.value.problems]
    assert len(told) == 2 and "foo" in told[0] and "model.stps" in told[1]


@pytest.mark.parametrize("word", ["last", "best", "nowhere"])
def test_no_record_is_said(word, monkeypatch, tmp_path):
    monkeypatch.setattr("sdxl.report.cells.ROOT", tmp_path)
    with pytest.raises(UserError):
        setting.record_of(word)


def test_last_is_the_newest_of_the_newest_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("sdxl.report.cells.ROOT", tmp_path)
    for number, (started, status) in enumerate(
        [("2026-01-02", "ok"), ("2026-01-03", "invalid"), ("2026-01-04", "failed")]
    ):
        made = Record(key="k", config={}, command=COMMAND, status=status, started=started)
        records.write(made, tmp_path / "multirun" / "2026-01-02" / "10-00-00" / str(number))
    assert setting.record_of("last").parent.name == "1"


def test_every_word_of_measuring_is_a_key_or_a_group():
    from sdxl.config.schema import Config

    groups = {path.name for path in (ROOT / "conf").iterdir()}
    known = groups | set(vars(Config)["__dataclass_fields__"]) | {"cost", "prompt", "prompts"}
    assert known >= setting.MEASURING
