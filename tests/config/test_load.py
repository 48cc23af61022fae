"""`load`: what it refuses, what it settles, and the keys it computes."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sdxl.config import content_key
from sdxl.config import load as config
from sdxl.config.schema import DType, Format
from sdxl.core.errors import ConfigError
from tests.composing import checked


def problems(load, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    return caught.value.problems


def whats(load, *overrides):
    return [problem.what for problem in problems(load, *overrides)]


def test_the_default_is_the_unquantized_trained_model_on_torch_offline():
    found = checked("run")
    assert (found.model.name, found.backend.name, found.scenario.name, found.quality.name) == (
        "tiny",
        "torch",
        "Offline",
        "fast",
    )
    assert found.dataset.name == found.quant.calib_dataset == "scenes"
    assert found.quant.name == "auto" and found.quant.format is Format.none
    assert found.precision.unet is DType.fp32


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("quant_level", 2.5, "level"),
        ("alpha", 0.5, "alpha"),
        ("percentile", 0.4, "percentile"),
        ("calib_size", 8, "calib_size"),
    ],
)
def test_any_quantization_key_turns_auto_into_int8(load, key, value, field):
    found = load(f"{key}={value}")
    assert found.quant.format is Format.int8
    assert getattr(found.quant, field) == value


@pytest.mark.parametrize("word", ["quant_level=2", "alpha=0.5", "percentile=0.5", "calib_size=8"])
def test_a_quantization_key_without_quantization_is_refused(load, word):
    (problem,) = problems(load, "quant=none", word)
    assert word in problem.what and "would be ignored" in problem.what
    assert problem.fix == f"quant=int8 {word}"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["quant_level=1.5"], "`quant_level` does not exist"),
        (["quant_level=4"], "level 4 quantizes attention"),
        (["alpha=1.5"], "`alpha` is out of range"),
        (["percentile=0"], "`percentile` is a fraction"),
        (["percentile=0.01"], "`percentile` leaves no denoising step"),
        (["calib_size=0"], "calib_size` is too small"),
        (["quant.format=int4_weight_only", "alpha=0.5"], "`alpha` would be ignored"),
        (["quant.format=int8_weight_only", "calib_size=8"], "`calib_size` would be ignored"),
        (["model.height=100"], "`model.height` does not fit the UNet"),
        (["model.width=0"], "`model.width` does not fit the UNet"),
        (["model.device=meta"], "the meta device holds no numbers"),
        (["model=sdxl_random", "precision=fp32", "model.steps=0", "rules=open"], "`model.steps`"),
        (["model=sdxl", "precision.vae=fp16"], "VAE overflows in fp16"),
        (["rules=open", "model.noise=per_prompt", "model.latents=x.npy"], "`model.latents` would"),
        (["rules=closed", "model.guidance=7"], "`model.guidance` is fixed"),
        (["rules=closed", "model.steps=4"], "`model.steps` is fixed"),
        (["rules=closed", "model.negative_prompt=ugly"], "`model.negative_prompt` is fixed"),
        (["rules=closed", "model.noise=per_prompt"], "`model.noise` is fixed"),
        (["scenario=SingleStream", "backend.batch_size=4"], "SingleStream sends one sample"),
        (["scenario=MultiStream", "backend.batch_size=4"], "can never be filled"),
        (["scenario=Server", "scenario.target_latency_percentile=99"], "is a fraction"),
        (["scenario=Server", "scenario.target_qps=0"], "`scenario.target_qps` must be positive"),
        (["scenario.target_qps=-2"], "`scenario.target_qps` must be positive"),
        (["scenario.target_qps=nan"], "`scenario.target_qps` must be a finite number"),
        (["rules=open", "model.guidance=inf"], "`model.guidance` must be a finite number"),
        (["scenario.target_qps=1e6", "scenario.min_duration_ms=600000"], "keep in memory"),
        (["scenario=Server", "scenario.target_qps=2e-6"], "would take years to arrive"),
        (["model=tiny", "limit=1000000"], "`limit` is too large for captions"),
        (["scenario.warmup_batches=0"], "`scenario.warmup_batches` is too small"),
        (["scenario.min_query_count=0"], "`scenario.min_query_count` is too small"),
        (["mode=accuracy", "scenario.target_qps=5"], "`scenario.target_qps` would be ignored"),
        (["dataset.shuffle=true"], "`dataset.shuffle` would be ignored"),
        (["tracking=off", "tracking.uri=http://x"], "`tracking.uri` would be ignored"),
        (["backend.threads=0"], "`backend.threads` is too small"),
        (["backend=fake", "model.device=cpu"], "`model.device` would be ignored"),
        (["backend=fake", "quant_level=2"], "the fake backend cannot quantize"),
        (["seed=-1"], "`seed` is too small"),
        (["limit=0"], "`limit` is too small"),
        (["quality.keep_images=0"], "`quality.keep_images` is too small"),
        (["backend.batch_size=0"], "`backend.batch_size` is too small"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_broken_rule_is_named(load, words, what):
    found = whats(load, *words)
    assert any(what in each for each in found), found


def test_what_closed_rules_forbid_open_rules_allow(load):
    found = load("rules=open", "model.steps=4", "model.guidance=1", "model.noise=per_prompt")
    assert found.model.steps == 4


def test_all_broken_rules_come_at_once(load):
    assert (
        len(whats(load, "limit=0", "seed=-1", "model.height=1", "model.steps=3", "rules=closed"))
        == 4
    )


def test_unknown_keys_at_every_depth_are_refused_with_a_suggestion(load):
    found = problems(load, "+quant.levle=1", "+model.stepz=1", "+zzz=1")
    assert {p.what for p in found} == {
        "there is no key `quant.levle`",
        "there is no key `model.stepz`",
        "there is no key `zzz`",
    }
    fixes = {problem.fix for problem in found}
    assert {"quant.level=VALUE", "model.steps=VALUE"} <= fixes


def test_a_missing_value_is_asked_for(composed):
    cfg = composed("model=sdxl", "precision=fp16")
    cfg.model.path = "???"
    with pytest.raises(ConfigError, match=r"`model\.path` is required"):
        config.load(cfg)


def test_an_interpolation_that_leads_nowhere_is_the_users_mistake(composed):
    with pytest.raises(ConfigError, match="nowhere"):
        config.load(composed("limit=${nowhere}"))


def test_a_setting_of_another_option_does_not_exist(load):
    with pytest.raises(Exception, match="variant"):
        load("model=tiny", "model.variant=fp16")
    with pytest.raises(Exception, match="target_qps"):
        load("scenario=SingleStream", "scenario.target_qps=1")


def test_plain_is_json_ready(load):
    found = content_key.plain(load("scenario=Server"))
    assert found["precision"]["unet"] == "fp32" and found["round"] == "v6.1"
    assert OmegaConf.create(found)  # only builtins


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=4) | st.lists(inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=5), st.randoms())
def test_a_key_does_not_depend_on_the_order_of_fields(settings, random):
    names = list(settings)
    random.shuffle(names)
    assert content_key.key(settings) == content_key.key({name: settings[name] for name in names})


@given(st.lists(st.integers(), unique=True, min_size=2, max_size=5))
def test_different_settings_have_different_keys(numbers):
    assert len({content_key.key({"level": number}) for number in numbers}) == len(numbers)


def test_a_later_setting_at_its_default_changes_no_key():
    @dataclasses.dataclass
    class Before:
        width: int = 1

    @dataclasses.dataclass
    class After(Before):
        vae: str | None = content_key.added(None)

    assert content_key.key(After()) == content_key.key(Before())
    assert content_key.key(After(vae="x")) != content_key.key(Before())
    assert content_key.plain(After()) == {"width": 1, "vae": None}, "a record shows it"


@pytest.mark.parametrize(
    ("words", "key", "fix"),
    [
        (["backend=fake", "backend.name=torch"], "backend.name", "backend=torch"),
        (["backend.name=x"], "backend.name", "backend=OPTION"),
        (["scenario.name=Server"], "scenario.name", "scenario=Server"),
        (["quality=none", "quality.name=full"], "quality.name", "quality=full"),
    ],
)
def test_names_are_no_settings(load, words, key, fix):
    (problem,) = problems(load, *words)
    assert key in problem.what and problem.fix == fix


@pytest.mark.parametrize(
    "word", ["quant.include=[[a],[b]]", "backend.devices=[[0],[1]]", "quant.exclude=[{a:1}]"]
)
def test_a_list_of_lists_is_the_wrong_type(load, word):
    assert_wrong_type(load, word)


@pytest.mark.parametrize("word", ["backend.devices=${oc.env:HOME}", "quant.exclude=${seed}"])
def test_what_stands_for_a_list_must_be_one(load, word):
    assert_wrong_type(load, word)


def test_a_name_that_no_file_can_have_is_no_error(load):
    name = "x" * 300
    assert load(f"quant.name={name}", f"model.name={name}").quant.name == name


def assert_wrong_type(load, word):
    (problem,) = problems(load, "quant=int8", word)
    assert problem.what == f"`{word.partition('=')[0]}` has the wrong type"
