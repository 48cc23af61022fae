"""The division of a run, and settings of a model that would be ignored."""

import pytest

from sdxl.config import content_key
from sdxl.config.schema import Rules
from sdxl.core.errors import ConfigError

CHOSEN = [
    ([], Rules.open),
    (["model=sdxl_random"], Rules.open),
    (["model=sdxl"], Rules.closed),
    (["model=sdxl", "model.path=/data/finetune"], Rules.open),
    (["model=sdxl", "model.unet=FOLDER"], Rules.open),
    (["model=sdxl", "model.vae=FOLDER"], Rules.open),
    (["model=sdxl", "model.lora=a.safetensors"], Rules.open),
    (["model=sdxl", "model.path=/data/sdxl", "rules=closed"], Rules.closed),
    (["model=sdxl", "rules=open"], Rules.open),
    (["model=sdxl", "rules=auto"], Rules.closed),
    (["+experiment=mlperf_offline", "model.path=/data/sdxl"], Rules.closed),
]


@pytest.mark.parametrize(("words", "expected"), CHOSEN)
def test_closed_is_for_the_benchmarks_weights_and_experiments(load, words, expected):
    assert load(*words).rules is expected


def test_other_models_need_no_word_for_other_work(load):
    assert load("model.steps=4").model.steps == 4
    with pytest.raises(ConfigError, match="fixed in MLPerf's closed division"):
        load("model=sdxl", "model.steps=4")


def test_asked_for_or_settled_a_division_has_one_key(load):
    assert content_key.key(load("rules=open")) == content_key.key(load())
    assert content_key.key(load("rules=closed")) != content_key.key(load())


IGNORED = [
    (["model.config=FOLDER"], "`model.config` would be ignored"),
    (["model.path=x.safetensors", "model.variant=fp16"], "`model.variant` would be ignored"),
    (["model.path=x.safetensors", "model.revision=main"], "`model.revision` would be ignored"),
]


@pytest.mark.parametrize(("words", "said"), IGNORED)
def test_what_a_file_or_a_folder_would_ignore_is_refused(load, words, said):
    with pytest.raises(ConfigError, match=said):
        load("model=sdxl", "rules=open", *words)


def test_new_settings_leave_keys_alone_at_their_default(load):
    model = load("model=sdxl").model
    shown = content_key.keyed(model)
    assert "vae" not in shown and "config" not in shown and "unet" in shown
    assert content_key.plain(model)["vae"] is None, "a record shows it"
    assert content_key.keyed(load("model.vae=FOLDER").model)["vae"] == "FOLDER"
