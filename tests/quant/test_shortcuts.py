"""Calibration under a shortcut: what its calls compute is what is watched."""

import dataclasses

import pytest
import torch

from sdxl.backends.torch import BACKEND
from sdxl.backends.torch.block import Block
from sdxl.config.schema import Calls, Quant, Steps
from sdxl.core.errors import UserError
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source
from sdxl.quant import build, calibrate, scales
from sdxl.quant import statistics as tables
from tests.model.deep_feature import DeepFeature, plain_loop
from tests.quant.conftest import make, with_quant
from tests.vnni import EXACT

DEEP, TOP = "mid_block.resnets.0.conv1", "conv_out"
AMMO = Quant("ammo", calls=Calls.max, steps=Steps.min, linear_ranges=True)
SHORT = ("quant=int8", "calib_size=1", "shortcut=deepcache", "shortcut.interval=2",
         "quant.report_prompts=0")  # fmt: skip


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A recipe under DeepCache, and its statistics in a store of their own."""
    recipe = make(*SHORT, "quant_level=3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDXL_STORE", str(tmp_path_factory.mktemp("store")))
        yield recipe, tables.load(calibrate.get(recipe).path / calibrate.FILE)


def test_statistics_belong_to_the_kinds_of_calls(config):
    plain = calibrate.settings_of(config, False)
    assert "shortcut" not in plain
    uniform, listed, other = (
        calibrate.settings_of(make(*SHORT[:3], f"shortcut.{word}"), False)
        for word in ("interval=2", "deep_steps=[0,2]", "branch=1")
    )
    assert uniform == listed != other
    assert uniform["shortcut"] == {"calls": ["deep-guided", "shallow-guided"] * 2, "branch": 0}


def test_a_call_that_left_a_layer_out_has_no_vote(short):
    """Otherwise zeros do: the smallest range over the steps is 0, the mean is too small."""
    _, found = short
    assert found.ran(DEEP).tolist() == [True, False] * 2 and found.ran(TOP).all()
    unkeyed = dataclasses.replace(found, settings={})
    amax = found.tensor(DEEP).amax(0)
    assert scales.tensor_amax(found, DEEP, AMMO) == amax[[0, 2]].min() > 0
    assert scales.tensor_amax(unkeyed, DEEP, AMMO) == 0, "all of the layer's input would be lost"
    linear = "mid_block.attentions.0.proj_in"
    assert scales.channel_amax(found, linear, AMMO).max() > 0
    assert scales.channel_amax(unkeyed, linear, AMMO).max() == 0
    mean = dataclasses.replace(AMMO, steps=Steps.mean)
    torch.testing.assert_close(
        scales.tensor_amax(found, DEEP, mean), 2 * scales.tensor_amax(unkeyed, DEEP, mean)
    )


def test_ranges_of_the_plain_loop_are_others(short, statistics):
    """The layers above the feature see what no full call shows them; a first call is the same."""
    _, found = short
    ours, plain = found.tensor(TOP)[0], statistics.tensor(TOP)[0]
    assert ours[0] == plain[0] and abs(ours[1] / plain[1] - 1) > 0.05, (ours, plain)


def test_statistics_of_other_calls_are_refused(config, statistics, warm_store, short):
    recipe, _ = short
    file = str(calibrate.get(config).path / calibrate.FILE)
    given = with_quant(recipe, statistics=file)
    with pytest.raises(UserError, match="of other UNet calls"):
        build.statistics_of(given, build.selection(given))


@torch.inference_mode()
@pytest.mark.parametrize("execution", ["simulated", "real"])
def test_eight_bits_in_parts_are_the_loop_with_cached_features(load, short, execution):
    recipe, _ = short
    made = build.prepare(recipe)
    words = ["model.height=64", "model.width=64", "backend.loop=scheduler"]
    wanted = load(
        *SHORT, *words, "quant_level=3", "model.steps=4", f"backend.execution={execution}"
    )
    stages = BACKEND.open(wanted, {"unet": made.path})
    texts = calibrate.calibration_prompts(dataclasses.replace(wanted.quant, calib_size=2))
    ours = Sampler(stages, open_source(wanted.model, 0), wanted, texts)
    with DeepFeature(stages.modules["unet"], 0, (0, 2)) as watch:
        expected = plain_loop(ours, [0, 1], watch.step)
    torch.testing.assert_close(ours.latents([0, 1]), expected, rtol=1e-4, atol=1e-4)
    if execution == "real" and EXACT:
        assert stages.describe()["execution"]["real_layers"] > 0


@pytest.mark.slow
@torch.inference_mode()
def test_merged_tokens_in_eight_bits_are_nearly_the_simulated_ones(load, store_at):
    """Whose rounding differs: the means do not, or the pictures would be of other tokens."""
    short = ("quant=int8", "calib_size=1", "quant.report_prompts=0", "shortcut=token_merging")
    made = build.prepare(make(*short, "quant_level=3"))
    texts = calibrate.calibration_prompts(make(*short, "quant_level=3").quant)
    found = {}
    for execution, merged in (("simulated", True), ("real", True), ("real", False)):
        wanted = load(
            *short, "quant_level=3", "model.steps=4", "model.height=64", "model.width=64",
            "rules=open", f"backend.execution={execution}", "backend.loop=scheduler",
        )  # fmt: skip
        stages = BACKEND.open(wanted, {"unet": made.path})
        sampler = Sampler(stages, open_source(wanted.model, 0), wanted, texts)
        if not merged:
            sampler.steps = [dataclasses.replace(step, merged=False) for step in sampler.steps]
        found[execution, merged] = sampler.latents([0])
    ours = [m for m in stages.modules["unet"].modules() if isinstance(m, Block)]
    assert any(hasattr(block.attn1, "merge") for block in ours)
    real, plain = found["real", True], found["real", False]
    near, far = ((real - each).abs().mean() for each in (found["simulated", True], plain))
    assert near < far / 4, (near, far)
