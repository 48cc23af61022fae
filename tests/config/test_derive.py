"""Keys follow what has an effect, and nothing else; broken settings are refused."""

import json

import pytest

from sdxl.config.derive import effective
from sdxl.config.schema import Format
from sdxl.core.errors import ConfigError, UserError
from sdxl.quant import device
from tests.quant.conftest import make


def same(one, other):
    return effective(make(*one)) == effective(make(*other))


def test_alpha_means_nothing_where_no_linear_is_smoothed():
    assert same(["quant=int8", "quant_level=1", "alpha=0.5"], ["quant=int8", "quant_level=1"])
    assert not same(["quant=int8", "quant_level=2", "alpha=0.5"], ["quant=int8", "quant_level=2"])
    linear = "quant.include=[to_out]"
    assert not same(["quant_level=1", "alpha=0.5", linear], ["quant_level=1", linear])


def test_auto_is_int8():
    assert same(["quant_level=2.5"], ["quant=int8", "quant_level=2.5"])
    assert same(["calib_size=32"], ["quant=int8"])
    assert effective(make()) == {"format": "none"}


def test_percentiles_that_end_at_the_same_step_are_one():
    assert same(["percentile=0.5"], ["percentile=0.6"])  # 2 of 4 steps
    assert not same(["percentile=0.5"], ["percentile=0.75"])
    one = ["quant=int8", "percentile=0.25"]
    assert same([*one, "quant.steps=min"], [*one, "quant.steps=max"])


def test_ranges_of_linears_mean_nothing_without_linears_or_with_a_plain_maximum():
    rule = ["quant=int8", "quant.steps=min"]
    linear = "quant.linear_ranges=true"
    assert same([*rule, "quant_level=1", linear], [*rule, "quant_level=1"])
    assert not same([*rule, linear], rule)
    assert same(["quant=int8", linear], ["quant=int8"])


def test_weight_only_formats_know_no_calibration():
    assert same(["quant=int8_weight_only"], ["quant=int8_weight_only", "quant.calib_size=3"])
    assert not same(["quant=int4_weight_only"], ["quant=int4_weight_only", "quant.block_size=64"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["percentile=0"], "`percentile` is a fraction"),
        (["percentile=1.1"], "`percentile` is a fraction"),
        (["percentile=0.2"], "leaves no denoising step"),
        (["alpha=-0.1"], "`alpha` is out of range"),
        (["alpha=1.5"], "`alpha` is out of range"),
        (["quant_level=2.2"], "`quant_level` does not exist"),
        (["quant_level=4"], "attention, which exists in FP8 only"),
        (["quant=int8", "calib_size=0"], "`calib_size` is too small"),
        (["quant=fp8", "alpha=0.5"], "`alpha` would be ignored"),
        (["quant=int8_weight_only", "percentile=0.5"], "`percentile` would be ignored"),
        (["quant=int4_weight_only", "quant_level=1"], "level 1 is convolutions only"),
        (["quant=int8", "quant.exclude=['(']"], "broken regular expression"),
        (["quant=mlperf_v4_int8", "quant.calls=mean"], "not their sum"),
        (["quant=mlperf_v4_int8", "quant.smooth=false"], "smallest amax of a whole Linear"),
        (["quant=int8", "quant.statistics=x", "calib_size=3"], "`calib_size` would be ignored"),
        (["quant=none", "alpha=0.5"], "would be ignored"),
    ],
)
def test_broken_settings(overrides, words):
    with pytest.raises(ConfigError) as caught:
        make(*overrides)
    assert any(words in problem.what for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("wanted", "capability", "reason"),
    [
        (Format.int8, (7, 0), "sm75"),
        (Format.fp8, (8, 0), "sm89"),
        (Format.nvfp4, (9, 0), "sm100"),
        (Format.nvfp4, None, "sm100"),
    ],
)
def test_a_format_that_the_device_lacks(wanted, capability, reason):
    with pytest.raises(UserError, match="cannot run") as caught:
        device.refuse(wanted, capability, "a GPU")
    assert reason in str(caught.value)


def test_formats_that_the_device_has():
    device.refuse(Format.int8, (7, 5), "T4")
    device.refuse(Format.fp8, (9, 0), "H100")
    device.refuse(Format.int8_weight_only, (6, 0), "P100")
    device.refuse(Format.fp8, None, "cpu")


def test_percentiles_count_the_timesteps_of_the_scheduler(load):
    """DPM++ SDE has 39 of them in 20 steps: 0.4 and 0.42 are 8 of 20, but 15 and 16 of 39."""

    def ranges(*words):
        config = load("quant=int8", "quant.steps=min", "rules=open", *words)
        return effective(config)["ranges"]

    assert ranges("percentile=0.4") == ranges("percentile=0.42")
    sde = "scheduler=dpmpp_sde"
    assert ranges(sde, "percentile=0.4") != ranges(sde, "percentile=0.42")


def test_percentiles_of_steps_that_share_a_timestep_are_two(load):
    """Karras' 50 steps have 49 timesteps: 0.5 and 0.511 are 25 of 50, but 24 and 25 of 49."""

    def ranges(percentile, kind="dpmpp_2m_karras"):
        words = "quant=int8", "quant.steps=min", "rules=open", "model.steps=50"
        config = load(*words, f"scheduler={kind}", f"percentile={percentile}")
        return effective(config)["ranges"]

    assert ranges(0.5) != ranges(0.511)
    assert ranges(0.5) == ranges(0.5, "dpmpp_2m") == ranges(0.511, "dpmpp_2m")


def test_percentiles_of_a_folder_whose_scheduler_calls_between_steps_are_two(load, tmp_path):
    """Its own KDPM2 has 39 timesteps in 20 steps as well; an Euler has 20."""

    def ranges(kind, percentile):
        place = tmp_path / kind / "scheduler"
        place.mkdir(parents=True, exist_ok=True)
        (place / "scheduler_config.json").write_text(json.dumps({"_class_name": kind}))
        words = ["model=sdxl", f"model.path={place.parent}", "quant=int8", "rules=open"]
        return effective(load(*words, "quant.steps=min", f"percentile={percentile}"))["ranges"]

    assert ranges("KDPM2DiscreteScheduler", 0.4) != ranges("KDPM2DiscreteScheduler", 0.42)
    assert ranges("KDPM2DiscreteScheduler", 1.0)[2] == ranges("EulerDiscreteScheduler", 1.0)[2]
    assert ranges("EulerDiscreteScheduler", 0.4) == ranges("EulerDiscreteScheduler", 0.42)
    assert ranges("EulerDiscreteScheduler", 0.4) == ["max", "min", 8]


def test_percentiles_of_a_hub_id_whose_scheduler_nobody_has_read_are_two(load):
    def ranges(percentile, *words):
        words = ("quant=int8", "quant.steps=min", "model=sdxl", "rules=open", *words)
        return effective(load(*words, f"percentile={percentile}"))["ranges"]

    other = "model.path=somebody/finetune"
    assert ranges(0.4, other) != ranges(0.42, other)
    assert ranges(0.4, other, "scheduler=euler") == ranges(0.42, other, "scheduler=euler")
    assert ranges(0.4) == ranges(0.42) == ["max", "min", 8], "the benchmark's own is Euler"
