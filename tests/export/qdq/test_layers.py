"""Quantized graphs compute what the simulated torch layers do: layer by layer, then end to end."""

from __future__ import annotations

import pytest
import torch

from sdxl.backends.torch.simulated import restore
from sdxl.core.errors import UserError
from sdxl.export.qdq.options import ONNX_RUNTIME, TENSORRT
from sdxl.model import checkpoint
from sdxl.model.sources import open_source
from tests.export.qdq import layerwise
from tests.export.qdq.layerwise import NAMES

LEVELS = (1, 2, 2.5, 3)
BASIC = "backend.optimization=basic"
EXACT = 2e-5
"""Relative: one layer's sums in another order, in fp32."""


def run(folder, inputs):
    feed = {name: tensor.numpy() for name, tensor in zip(NAMES, inputs, strict=True)}
    return torch.from_numpy(layerwise.session(folder).run(None, feed)[0])


def simulated(bench, config, dtype):
    source = open_source(config.model, config.seed)
    shapes = source.component("unet", torch.float32, torch.device("meta"))
    return restore(shapes, bench.checkpoint(config).path, dtype, torch.device("cpu"))


def predict(unet, inputs):
    sample, timestep, hidden, pooled, ids = inputs
    with torch.inference_mode():
        return unet(
            sample, timestep, encoder_hidden_states=hidden,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}, return_dict=False,
        )[0]  # fmt: skip


def distance(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.mark.parametrize(
    ("level", "options"), [*((level, ONNX_RUNTIME) for level in LEVELS), (3, TENSORRT)]
)
def test_integers_are_the_simulated_ones_layer_by_layer(bench, network, tmp_path, level, options):
    config = bench.recipe("quant=int8", f"quant_level={level}")
    facts = bench.edited(config, tmp_path, options)
    stored = bench.checkpoint(config).path
    found = layerwise.differences(tmp_path, stored, network.inputs)
    layers = checkpoint.Checkpoint(stored).layers
    assert set(found) == set(layers)
    assert sum(facts["settings"]["inserted"]["layers"].values()) == len(layers)
    for name, each in found.items():
        assert each.largest_step <= 1, name
        assert each.different <= max(2, 1e-3 * each.codes), (name, each)  # ties
        assert each.output < EXACT, (name, each)


@pytest.mark.parametrize(("words", "kinds"), [
    (["quant=fp8", "quant_level=3", BASIC], {"conv", "linear"}),
    (["quant=fp8_mha", BASIC], {"conv", "linear", "attention"}),
    (["quant=int8_weight_only", "quant_level=3"], {"conv", "linear"}),
])  # fmt: skip
def test_other_formats_layer_by_layer(bench, network, tmp_path, words, kinds):
    config = bench.recipe(*words)
    facts = bench.edited(config, tmp_path, TENSORRT)
    stored = bench.checkpoint(config).path
    # ONNX Runtime's CPU kernels know FP8 in Q and DQ alone, and its fusions take them for INT8.
    found = layerwise.differences(tmp_path, stored, network.inputs, layerwise.PLAIN)
    assert set(facts["settings"]["inserted"]["layers"]) == kinds
    for name, each in found.items():
        assert each.largest_step <= 1, (name, each)
        assert each.different <= max(2, 2e-3 * each.codes), (name, each)
        assert each.output < EXACT, (name, each)


def test_int4_blocks(bench, network, tmp_path):
    words = ["quant=int4_weight_only", "quant_level=3"]
    graph = bench.newer(tmp_path / "graph", opset=21)
    with pytest.raises(UserError, match="divide the width"):
        bench.edited(bench.recipe(*words), tmp_path, TENSORRT, graph)
    config = bench.recipe(*words, "quant.block_size=32")
    bench.edited(config, tmp_path, TENSORRT, graph)
    found = layerwise.differences(tmp_path, bench.checkpoint(config).path, network.inputs)
    assert found
    assert max(each.output for each in found.values()) < EXACT


@pytest.mark.parametrize("level", LEVELS)
def test_end_to_end_at_the_noise_level(bench, network, tmp_path, level):
    """Two correct implementations differ by what rounding makes of their last bits.

    That noise is measured: how far the simulated network in fp32 and two with an input changed by
    1e-5 are from the one in fp64. The graph may be no farther than twice that.
    """
    config = bench.recipe("quant=int8", f"quant_level={level}")
    bench.edited(config, tmp_path)
    exact = predict(simulated(bench, config, torch.float64), [x.double() for x in network.inputs])
    unet = simulated(bench, config, torch.float32)
    sample, *others = network.inputs
    random = torch.Generator().manual_seed(0)
    nudges = [0, *(1e-5 * torch.randn(sample.shape, generator=random) for _ in range(2))]
    noise = max(distance(predict(unet, [sample * (1 + nudge), *others]), exact) for nudge in nudges)
    assert noise < distance(network.run()[0], exact) / 2  # else there is nothing to tell apart
    assert distance(run(tmp_path, network.inputs), exact) < 2 * noise


def test_the_products_of_patches_are_the_convolutions(bench, network, tmp_path):
    """Stride, padding and 1 x 1 kernels included: the same codes in, nearly the same sums out."""
    config = bench.recipe("quant=int8", "quant_level=1", "quant.exclude=[]")
    layers = checkpoint.Checkpoint(bench.checkpoint(config).path).layers
    kernels = {name.split(".")[-1] for name in layers}
    assert {"conv_in", "conv_shortcut", "conv", "conv1"} <= kernels
    outputs = []
    for options in (ONNX_RUNTIME, TENSORRT):
        folder = tmp_path / options.convolutions.value
        bench.edited(config, folder, options)
        outputs.append(layerwise.differences(
            folder, bench.checkpoint(config).path, network.inputs, layerwise.PLAIN
        ))  # fmt: skip
    for found in outputs:
        assert set(found) == set(layers)
        assert max(each.output for each in found.values()) < EXACT


def test_dynamic_batch(bench, network, tmp_path):
    bench.edited(bench.recipe("quant=int8", "quant_level=3"), tmp_path)
    for rows in (2, 4, 8):
        inputs = [x if x.shape[0] == 1 else x[:1].expand(rows, *x.shape[1:]) for x in
                  network.inputs]  # fmt: skip
        assert run(tmp_path, inputs).shape[0] == rows
