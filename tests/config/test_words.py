"""Words of a command line: options anywhere among them, and the line to type for those refused."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from sdxl.config import explain, words
from sdxl.core import records as files
from sdxl.core.errors import ConfigError
from sdxl.run import setting


def problem(*typed):
    (found,) = words.problems_of("run", words.read("run", typed)).values()
    return found[0]


@pytest.mark.parametrize(
    ("typed", "options", "overrides"),
    [
        (["seed=1", "-m", "limit=2"], ["-m"], ["seed=1", "limit=2"]),
        (["--config-dir", "D", "a=1", "--multirun", "b=1"], ["--config-dir", "D", "--multirun"],
         ["a=1", "b=1"]),
        (["a=1", "--cfg", "job", "b=2"], ["--cfg", "job"], ["a=1", "b=2"]),
        (["+sweep=x", "~model"], [], ["+sweep=x", "~model"]),
    ],
)  # fmt: skip
def test_options_stand_anywhere(typed, options, overrides):
    read = words.read("run", typed)
    assert (read.options, read.overrides) == (options, overrides)
    assert read.multirun == bool({"-m", "--multirun"} & {*typed})
    assert read.config_dir == ("D" if "D" in typed else None)


@pytest.mark.parametrize("typed", [["-x"], ["--cfg", "plan=true"], ["--plan", "seed=1"]])
def test_an_option_that_does_not_exist_is_refused_in_our_words(typed):
    with pytest.raises(ConfigError) as caught:
        words.read("quantize", typed)
    assert caught.value.problems[0].fix == "python quantize.py --help"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("model.path=/data/epoch=3/sdxl", "/data/epoch=3/sdxl"),
        ("model.path=模型/sdxl v1", "模型/sdxl v1"),
        ("model.path=/data/sdxl@v2#1", "/data/sdxl@v2#1"),
        ("model.negative_prompt=(worst quality:1.4), blurry", "(worst quality:1.4), blurry"),
        ("quant.exclude=[(time_emb|conv_in), x]", ["(time_emb|conv_in)", "x"]),
        ("model.path='it", "'it"),
        ('model.negative_prompt=a"b', 'a"b'),
    ],
)
def test_the_line_to_type_gives_what_was_meant(word, value):
    """Through a shell and through Hydra's grammar."""
    fix = problem(word).fix
    (typed,) = shlex.split(fix)
    assert OverridesParser.create().parse_override(typed).value() == value


@given(st.text(min_size=1))
def test_any_text_can_be_typed(text):
    if "\x00" in text:
        return
    (typed,) = shlex.split(words.typed("model.negative_prompt", text + "("))
    assert OverridesParser.create().parse_override(typed).value() == text + "("


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (True, "k=true"),
        (None, "k=null"),
        (3.0, "k=3"),
        (1e-5, "k=1e-05"),
        (["a", 1], "'k=[a,1]'"),
        ("caf\u00e9", "'k=\"caf\u00e9\"'"),
    ],
)
def test_values_are_typed_as_hydra_reads_them(value, typed):
    assert words.typed("k", value) == typed


@pytest.mark.parametrize(
    ("typed", "what", "fix"),
    [
        (["backend=1"], "`backend` has no option `1`", None),
        (["backend=null"], "`backend` has no option `null`", None),
        (["backend=[fake]"], "has no option", "backend=fake"),
        (["model.name=x"], "`model.name` is no setting", "model=x"),
        (["experiment=x"], "`experiment` is added with a +", "+experiment=x"),
        (["sweep=x"], "`sweep` is added with a +", "+sweep=x"),
        (["preset=turbo"], "`preset` is added with a +", "+preset=turbo"),
        (["+sweep=x", "seed=1"], "ignored without -m", "python run.py -m +sweep=x seed=1"),
        (["seed=1,2"], "without -m", """python run.py -m seed=1,2   # or: 'seed="1,2"'"""),
        (["limit=1]"], "cannot be read", None),
        ([""], "cannot be read", None),
        (["seed"], "cannot be read", None),
        (["=1"], "cannot be read", None),
    ],
)
def test_a_word_is_refused_with_the_line_to_type(typed, what, fix):
    found = problem(*typed)
    assert what in found.what
    assert found.fix == fix


def test_good_words_have_no_problem():
    good = ["seed=1", "+experiment=harness_check", "~model", "model=tiny", "hydra.run.dir=x"]
    assert not words.problems_of("run", words.read("run", good))
    sweep = ["-m", "seed=1,2", "+sweep=quant_grid", "backend=fake,torch"]
    assert not words.problems_of("run", words.read("run", sweep))


def test_a_bad_word_hides_no_other_problem():
    with pytest.raises(ConfigError) as caught:
        explain.check("run", words.read("run", ["backend=1", "limit=x", "model.stpes=3"]))
    said = " ".join(each.what for each in caught.value.problems)
    assert all(part in said for part in ("`backend`", "`limit`", "`model.stpes`"))


@pytest.mark.parametrize("added", ["+candidate=openvino_fp32", "+latency=openvino_int8"])
def test_a_setting_of_a_backend_that_a_word_brings_is_no_problem(added):
    (found,) = explain.problems_in("run", ["backend.streams=2", added, "seed=x"])
    assert "`seed`" in found.what


def test_a_folder_of_configurations_is_searched_too(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/good.yaml").write_text("# @package _global_\nseed: 3\n")
    mine = ["+experiment=good", "limit=x"]
    (found,) = explain.problems_in("run", mine, str(tmp_path))
    assert "`limit`" in found.what
    from sdxl.config.compose import Composer

    assert Composer("run", str(tmp_path)).config(mine[:1]).seed == 3


@pytest.mark.parametrize(
    ("word", "fix"),
    [
        ("model.path=x", "model=sdxl model.path=VALUE"),
        ("model.stpes=3", "model.steps=VALUE"),
        ("backend.thraeds=3", "backend.threads=VALUE"),
        ("backend.sample_ms=3", "backend=fake backend.sample_ms=VALUE"),
        ("scenaro=Server", "scenario=VALUE"),
    ],
)
def test_suggestions_look_inside_the_group_that_was_named(word, fix):
    (found,) = explain.problems_in("run", [word])
    assert found.fix == fix


def test_globs_are_no_regular_expressions(load):
    with pytest.raises(ConfigError) as caught:
        load("quant=int8", 'quant.exclude=["*time_emb_proj*"]')
    (typed,) = shlex.split(caught.value.problems[0].fix or "")
    assert OverridesParser.create().parse_override(typed).value() == [".*time_emb_proj.*"]


def test_a_sweep_takes_a_folder_of_configurations_and_words_in_any_order(cli, tmp_path):
    (tmp_path / "mine/experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [{override /backend: fake}]\nlimit: 4\n"
    (tmp_path / "mine/experiment/good.yaml").write_text(text)
    done = cli("--config-dir", str(tmp_path / "mine"), "+experiment=good", "seed=1,2", "-m",
               "scenario.min_duration_ms=0", "backend.sample_ms=0", "tracking=off",
               "quality=none", f"hydra.sweep.dir={tmp_path}/swept")  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["cells"] == done.json["ok"] == 2
    for record in done.json["records"]:
        assert f"--config-dir={tmp_path}/mine +experiment=good" in files.read(Path(record)).command
        assert setting.compose(record, ["limit=5"]).backend.name == "fake"
