"""The kept text of `--help`: shown while it holds, and never instead of what changed."""

import json
import os
import shutil

import pytest

from sdxl.core import kept_help, paths

WORDS = ["--help"]


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A small package and its configuration, and a store that is there."""
    for name, part in (("PACKAGE", "sdxl"), ("CONF", "conf")):
        folder = tmp_path / part
        (folder / "deep").mkdir(parents=True)
        monkeypatch.setattr(paths, name, folder)
    (tmp_path / "sdxl/deep/one.py").write_text("x = 1\n")
    (tmp_path / "conf/deep/run.yaml").write_text("x: 1\n")
    (tmp_path / "store").mkdir()
    kept_help.keep("run", WORDS, "limit=16\nseed=0")
    return tmp_path


def told(name="run", words=WORDS):
    """Whether the process would end here."""
    try:
        kept_help.answer(name, words)
    except SystemExit as stop:
        assert stop.code == 0
        return True
    return False


def test_the_text_is_shown_again(house, capsys):
    assert told() and capsys.readouterr().out == "limit=16\nseed=0\n"
    assert not told("train") and not told(words=["--help", "quant=int8"]) and not told(words=[])
    assert capsys.readouterr().out == ""


def test_no_secret_is_kept(house, capsys):
    kept_help.keep("run", WORDS, "tracking.uri=http://bob:Pl4nted-S3cret@127.0.0.1:9/")
    assert "Pl4nted-S3cret" not in (house / "store/help/run.json").read_text()
    assert told() and "127.0.0.1:9" in capsys.readouterr().out


def append(path):
    path.write_text(path.read_text() + "# more\n")


@pytest.mark.parametrize("change", [
    lambda house: append(house / "conf/deep/run.yaml"),
    lambda house: append(house / "sdxl/deep/one.py"),
    lambda house: (house / "conf/new.yaml").write_text("y: 1\n"),
    lambda house: (house / "conf/deep/run.yaml").rename(house / "conf/deep/other.yaml"),
    lambda house: os.utime(house / "sdxl/deep/one.py", (1, 1)),
    lambda house: os.environ.update(MLFLOW_TRACKING_URI="sqlite:///other.db"),
    lambda house: os.environ.update(SDXL_MORE="1"),
], ids=["yaml", "code", "new", "renamed", "older", "variable", "another variable"])  # fmt: skip
def test_a_change_is_never_hidden(house, change):
    assert told()
    change(house)
    assert not told()


def test_other_libraries_are_noticed(house, monkeypatch):
    monkeypatch.setattr(kept_help, "_LIBRARIES", ("hydra", "yaml"))
    assert not told()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"of": "x", "text": "y"}', '{"text": 1}'])
def test_a_damaged_file_is_no_text(house, text):
    (house / "store/help/run.json").write_text(text)
    assert not told()


def test_nothing_is_kept_where_there_is_no_store_or_words_choose(house, monkeypatch):
    shutil.rmtree(house / "store")
    kept_help.keep("run", WORDS, "text")
    assert not (house / "store").exists()
    (house / "store").mkdir()
    kept_help.keep("run", ["quant=int8", "--help"], "text")
    assert not [*(house / "store").iterdir()]
    (house / "store/help").write_text("in the way")
    kept_help.keep("run", WORDS, "text")
    assert not told()


@pytest.mark.parametrize("name", ["run", "quantize", "export", "train"])
def test_a_command_says_the_same_twice_and_the_second_time_from_the_store(cli, tmp_path, name):
    (tmp_path / "store").mkdir()
    first, second = (cli("--help", script=f"{name}.py") for _ in range(2))
    assert first.code == second.code == 0 and first.out == second.out and "seed=" in first.out
    file = tmp_path / "store/help" / f"{name}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "text": "planted"}))
    assert cli("--help", script=f"{name}.py").out == "planted\n"
    fresh = cli("--help", script=f"{name}.py", env={"SDXL_STORE": str(tmp_path / "none")})
    assert fresh.out == first.out
