"""`prompt`, `prompts` and `size`: what they stand for, and what they are refused beside."""

import pytest

from sdxl.config import load as loading
from sdxl.config import schema, shorthand
from sdxl.core.errors import ConfigError
from sdxl.run import identity


@pytest.fixture
def typed(composed):
    """The checked configuration of words, which are known to have been typed."""
    return lambda *words: loading.load(composed(*words), words)


def told(typed, *words):
    with pytest.raises(ConfigError) as caught:
        typed(*words)
    return str(caught.value)


def test_a_prompt_is_a_dataset(typed):
    config = typed("model=tiny", "prompt=a red cube")
    assert config.dataset == schema.TextDataset("prompt", False, "a red cube")


def test_a_file_of_prompts_is_a_dataset(typed):
    config = typed("prompts=p.txt", "limit=2", "dataset.shuffle=true")
    assert config.dataset == schema.LinesDataset("prompts", True, "p.txt")


@pytest.mark.parametrize("word", ["dataset=builtin", "dataset=coco", "dataset=scenes"])
@pytest.mark.parametrize("prompt", ["prompt=a", "prompts=b.txt"])
def test_beside_a_dataset_they_are_refused(typed, word, prompt):
    assert "`dataset` would be ignored" in told(typed, word, prompt)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prompt=a", "prompts=b.txt"], "two datasets"),
        (["prompt=' '"], "`prompt` is empty"),
        (["prompts=''"], "`prompts` is empty"),
        (["prompt=a", "dataset.shuffle=true", "limit=1"], "there is one prompt"),
        (["size=1152"], "`size` cannot be read"),
        (["size=0x64"], "`size` cannot be read"),
        (["size=100x64"], "does not fit the UNet"),
        (["size=64x96", "model.width=64"], "`model.width` would be ignored beside `size`"),
    ],
)
def test_what_is_refused(typed, words, said):
    assert said in told(typed, "rules=open", *words)


def test_a_size_is_width_by_height_and_has_the_key_of_what_it_stands_for(typed):
    short = typed("size=96x64", "rules=open")
    long = typed("model.width=96", "model.height=64", "rules=open")
    assert (short.model.width, short.model.height) == (96, 64)
    assert identity.identity(short) == identity.identity(long)


def test_a_size_is_not_the_benchmarks(typed):
    assert "fixed in MLPerf's closed division" in told(typed, "model=sdxl", "size=1152x896")


def test_prompts_are_refused_where_no_picture_is_drawn(typed):
    config = typed("prompt=a red cube")
    with pytest.raises(ConfigError, match=r"`prompt` would be ignored: quantize\.py draws no"):
        shorthand.refuse_unread(config, "quantize.py")
    shorthand.refuse_unread(typed(), "quantize.py")


def test_other_prompts_are_other_measurements(typed):
    keys = {identity.identity(typed(*words))
            for words in ([], ["prompt=a"], ["prompt=b"], ["prompts=b"])}  # fmt: skip
    assert len(keys) == 4


TEXTS = ["a red cube", "a cube, red", "it's 5\" wide", "a (red:1.2) cube, [8k] {x}", "C:\\a, b\\",
         "a\\'b", "=,=", "caf\u00e9, \u00e9", "key: value", "ein roter W\u00fcrfel",
         "~/a"]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_prompt_is_taken_as_it_is_typed(composed, text):
    (word,) = shorthand.quoted([f"prompt={text}"])
    assert composed(word).prompt == text
    assert shorthand.quoted([word]) == [word], "quoted once"


@pytest.mark.parametrize("path", ["~/sdxl", "/home/jos\u00e9/sdxl v1", "\u6a21\u578b=2"])
def test_a_path_is_taken_as_it_is_typed(composed, path):
    (word,) = shorthand.quoted([f"prompts={path}"])
    assert composed(word).prompts == path


def test_letters_that_hydra_lacks_are_quoted_value_by_value():
    assert shorthand.quoted(["-m", "prompt=W\u00fcrfel,a cat", "seed=1,2"]) == [
        "-m", "prompt='W\u00fcrfel',a cat", "seed=1,2"
    ]  # fmt: skip
    left = ["--config-dir=~/mine", "~quant", "model.path='~/a'", "prompts=p.txt", "\u00e9=[\u00e9]"]
    assert shorthand.quoted(left) == left


def test_shards_in_braces_are_a_name(composed):
    name = "/data/shard-{000000..000099}.tar"
    words = shorthand.quoted(["train=finetune", f"train.shards={name}"])
    assert composed(*words, name="train").train.shards == name
    assert shorthand.quoted(["train.shards=/data/out"]) == ["train.shards=/data/out"]


def test_a_sweep_has_many_prompts_and_quotes_stay():
    assert shorthand.quoted(["-m", "prompt=a,b"]) == ["-m", "prompt=a,b"]
    assert shorthand.quoted(["limit=1,2", "prompt='a, b'"]) == ["limit=1,2", "prompt='a, b'"]


@pytest.mark.parametrize("script", ["quantize.py", "export.py", "train.py"])
def test_a_price_is_refused_where_no_speed_is_measured(cli, script):
    done = cli("cost.per_hour=2.5", "plan=true", script=script)
    assert done.code == 2
    assert f"`cost.per_hour` would be ignored: {script} measures no speed" in done.err
    assert "python run.py cost.per_hour=2.5" in done.err
