"""Ranges and SmoothQuant factors: the peers' rules restated, and what must always hold."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdxl.config.schema import Calls, Format, Quant, Steps
from sdxl.core.errors import UserError
from sdxl.quant import scales
from sdxl.quant.levels import Kind, layers_of
from tests.quant.conftest import make

tables = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 8)),
    elements=st.floats(2**-10, 1e3, width=32),
)


class PeerCalibrator:
    """The peers' calibrators written as they are: fed call by call, a slot per step.

    AMMO (max), MLPerf v4.0's PercentileAmaxes (np.minimum), NeMo and ModelOpt's example
    (global_min=False: sum, then / total_step); all take the smallest of the first slots.
    """

    def __init__(self, total_step, percentile, inside):
        self.total_step, self.percentile, self.inside = total_step, percentile, inside
        self.data, self.i = {}, 0

    def collect(self, amax):
        step = self.i % self.total_step
        if step not in self.data:
            self.data[step] = amax
        elif self.inside == "max":
            self.data[step] = np.maximum(self.data[step], amax)
        elif self.inside == "min":
            self.data[step] = np.minimum(self.data[step], amax)
        else:
            self.data[step] = self.data[step] + amax
        self.i += 1

    def compute_amax(self):
        kept = int(self.total_step * self.percentile)
        divisor = self.total_step if self.inside == "sum" else 1
        return np.min(np.stack([self.data[step] / divisor for step in range(kept)]), axis=0)


def peer(table, inside, percentile):
    """`table`: (calls, steps, ...) fed in the order in which a pipeline would."""
    calibrator = PeerCalibrator(table.shape[1], percentile, inside)
    for call in table:
        for amax in call:
            calibrator.collect(amax)
    return calibrator.compute_amax()


PEERS = {"ammo": "max", "mlperf_v4_int8": "min", "nemo": "sum", "demo_diffusion": "sum"}


@pytest.mark.parametrize("percentile", [None, 0.25, 0.5])
@pytest.mark.parametrize("recipe", PEERS)
def test_presets_compute_what_the_peers_compute(recipe, percentile, statistics, fresh_unet):
    overrides = [f"quant={recipe}"] + ([f"percentile={percentile}"] if percentile else [])
    quant = make(*overrides).quant
    for layer in layers_of(fresh_unet()):
        if layer.kind is Kind.conv:
            table = statistics.tensor(layer.name).numpy()
            wanted = peer(table, PEERS[recipe], quant.percentile)
            got = scales.tensor_amax(statistics, layer.name, quant)
            assert float(got) == pytest.approx(float(wanted), rel=1e-6)
        elif layer.kind is Kind.linear:
            got = scales.channel_amax(statistics, layer.name, quant).numpy()
            if recipe in ("nemo", "demo_diffusion"):  # plain maximum, then SmoothQuant
                assert np.array_equal(got, statistics.channel(layer.name).amax(0).numpy())
                continue
            # What is left of the calls in the tables is what these two rules need.
            kept = statistics.channel(layer.name, smallest=PEERS[recipe] == "min").numpy()
            assert np.array_equal(got, peer(kept[None], PEERS[recipe], quant.percentile))


def test_modelopts_default_is_the_plain_maximum(statistics, fresh_unet):
    quant = make("quant=modelopt").quant
    for layer in layers_of(fresh_unet()):
        if layer.kind is Kind.conv:
            assert scales.tensor_amax(statistics, layer.name, quant) == (
                statistics.tensor(layer.name).max()
            )
        elif layer.kind is Kind.linear:
            assert scales.linear_amax(statistics, layer.name, quant) == (
                statistics.channel(layer.name).max()
            )


@given(tables, st.sampled_from(list(Steps)), st.floats(0.01, 1))
def test_rules_are_ordered_and_stay_within_what_was_seen(table, steps, fraction):
    amax = torch.from_numpy(table)
    if int(amax.shape[1] * fraction) == 0:
        with pytest.raises(UserError, match="percentile"):
            scales.over_steps(amax[0], steps, fraction)
        return
    values = {
        rule: float(scales.over_steps(scales.over_calls(amax, rule), steps, fraction))
        for rule in (Calls.min, Calls.mean, Calls.max)
    }
    slack = 1e-5 * values[Calls.max]
    assert values[Calls.min] - slack <= values[Calls.mean] <= values[Calls.max] + slack
    assert amax.min() <= values[Calls.min] and values[Calls.max] <= amax.max()


@given(tables)
def test_the_divisor_quirk_is_the_mean_times_calls_by_steps(table):
    amax = torch.from_numpy(table)
    quirk = scales.over_calls(amax, Calls.sum_over_steps)
    factor = amax.shape[0] / amax.shape[1]
    assert torch.allclose(quirk, scales.over_calls(amax, Calls.mean) * factor, rtol=1e-5)


@given(tables, st.floats(0.3, 1), st.floats(0.3, 1))
def test_more_steps_raise_a_maximum_and_lower_a_minimum(table, one, other):
    amax = torch.from_numpy(table[0])
    few, many = sorted((one, other))
    if int(len(amax) * few) == 0:
        return
    assert scales.over_steps(amax, Steps.max, few) <= scales.over_steps(amax, Steps.max, many)
    assert scales.over_steps(amax, Steps.min, few) >= scales.over_steps(amax, Steps.min, many)


weights = hnp.arrays(np.float32, (3, 5), elements=st.floats(-8, 8, width=32))
ranges = hnp.arrays(np.float32, 5, elements=st.floats(0, 2**10, width=32))


@given(weights, ranges, st.floats(0, 1))
def test_smoothing_changes_no_product_and_keeps_its_bounds(weight, amax, alpha):
    weight, amax = torch.from_numpy(weight), torch.from_numpy(amax)
    factors = scales.smooth_factors(weight, amax, alpha)
    assert torch.isfinite(factors).all()
    assert (factors >= 1e-4).all() and (factors <= 1e4).all()
    assert (factors[amax <= scales.DEAD] == 1).all()
    inputs = amax * torch.linspace(-1, 1, 5)
    plain = inputs.double() @ weight.double().T
    smoothed = (inputs * factors).double() @ (weight / factors).double().T
    terms = inputs.abs().double() @ weight.abs().double().T  # what may cancel in a sum
    assert ((plain - smoothed).abs() <= 1e-6 * terms + 1e-30).all()
    assert scales.smoothed_amax(amax, factors, torch.float32) == (amax * factors).max()


def test_alpha_one_leaves_every_live_channel_with_the_same_range():
    amax = torch.tensor([0.5, 4.0, 100.0])
    factors = scales.smooth_factors(torch.randn(4, 3), amax, 1.0)
    assert torch.allclose(amax * factors, torch.ones(3))


def test_alpha_only_leaves_the_others_at_one():
    quant = make("quant=ammo", "alpha=0.7").quant
    assert scales.alpha_of("mid_block.attentions.0.transformer_blocks.0.attn1.to_q", quant) == 0.7
    assert scales.alpha_of("mid_block.attentions.0.transformer_blocks.0.ff.net.2", quant) == 1.0


@pytest.mark.parametrize("fraction", [0.0, 0.2, 1.5, -1.0])
def test_fractions_that_leave_no_step(fraction):
    with pytest.raises(UserError, match="percentile"):
        scales.over_steps(torch.ones(4), Steps.min, fraction)


def test_statistics_of_another_model_are_named(statistics, fresh_unet):
    unet = fresh_unet()
    layers = layers_of(unet)
    scales.check_fits(statistics, unet, [x for x in layers if x.kind is not Kind.attention])
    with pytest.raises(UserError, match="another model"):  # these hold no attention parts
        scales.check_fits(statistics, unet, layers)
    foreign = dataclasses.replace(statistics, channels={**statistics.channels})
    name = next(iter(foreign.channels))
    foreign.channels[name] = slice(0, 1)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        scales.check_fits(foreign, unet, [x for x in layers if x.kind is Kind.linear])


def test_weight_only_formats_need_no_statistics():
    quant = Quant(name="x", format=Format.int8_weight_only)
    layer = scales.Layer("a", Kind.linear, 4)
    assert scales.scales_of(layer, torch.ones(2, 2), None, quant) == scales.LayerScales()
