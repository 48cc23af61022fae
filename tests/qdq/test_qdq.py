"""Q/DQ by graph edit: whole, exact layer by layer, at the noise level end to end, no copies."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from sdxl import checkpoint, graphs, store
from sdxl.backends._torch_quant import restore
from sdxl.choices import Convolutions
from sdxl.errors import ConfigError, SdxlError, UserError
from sdxl.export import modules, qdq
from sdxl.export.qdq import check
from sdxl.export.qdq.graph import module_of
from sdxl.export.qdq.options import ONNX_RUNTIME, TENSORRT
from sdxl.model import open_source
from sdxl.schema import Format
from tests.qdq import layerwise

LEVELS = (1, 2, 2.5, 3)
BASIC = "backend.optimization=basic"
EXACT = 2e-5
"""Relative: one layer's sums in another order, in fp32."""


@pytest.fixture(scope="module")
def network(kept, request):
    """The unquantized UNet with inputs for two images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDXL_STORE", str(kept.folder / "store"))
        config = kept.config()
        return modules.prepare(config, open_source(config.model, config.seed), "unet", 2)


def load(folder):
    return onnx.load(folder / graphs.MODEL, load_external_data=False)


def names():
    return graphs.INPUTS["unet"]


def run(folder, inputs, level=layerwise.ALL):
    feed = {name: tensor.numpy() for name, tensor in zip(names(), inputs, strict=True)}
    return torch.from_numpy(layerwise.session(folder, level=level).run(None, feed)[0])


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
    found = layerwise.differences(tmp_path, stored, network.inputs, names())
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
    found = layerwise.differences(tmp_path, stored, network.inputs, names(), layerwise.PLAIN)
    assert set(facts["settings"]["inserted"]["layers"]) == kinds
    for name, each in found.items():
        assert each.largest_step <= 1, (name, each)
        assert each.different <= max(2, 2e-3 * each.codes), (name, each)
        assert each.output < EXACT, (name, each)


def test_int4_blocks(bench, network, tmp_path):
    words = ["quant=int4_weight_only", "quant_level=3"]
    with pytest.raises(UserError, match="divide the width"):
        bench.edited(bench.recipe(*words), tmp_path, TENSORRT)
    config = bench.recipe(*words, "quant.block_size=32")
    bench.edited(config, tmp_path, TENSORRT)
    found = layerwise.differences(tmp_path, bench.checkpoint(config).path, network.inputs, names())
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


@pytest.mark.parametrize("smooth", ["true", "false"])
def test_every_layer_runs_in_integers(bench, network, tmp_path, smooth):
    """Also where layers share their input's codes."""
    config = bench.recipe("quant=int8", "quant_level=3", f"quant.smooth={smooth}")
    inserted = bench.edited(config, tmp_path)["settings"]["inserted"]
    assert bool(inserted["shared_inputs"]) == (smooth == "false")
    session = layerwise.session(tmp_path, profile=str(tmp_path / "profile"))
    session.run(None, dict(zip(names(), (x.numpy() for x in network.inputs), strict=True)))
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time")]
    layers = checkpoint.Checkpoint(bench.checkpoint(config).path).layers
    assert kernels.count("MatMulIntegerToFloat") == len(layers)
    assert "DequantizeLinear" not in kernels


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
            folder, bench.checkpoint(config).path, network.inputs, names(), layerwise.PLAIN
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


def test_no_weight_is_copied(bench, tmp_path):
    config = bench.recipe("quant=int8", "quant_level=2.5")
    bench.edited(config, tmp_path)
    for place, name in ((bench.graph(config).path, graphs.WEIGHTS),
                        (bench.checkpoint(config).path, checkpoint.WEIGHTS)):  # fmt: skip
        assert (tmp_path / name).stat().st_ino == (place / name).stat().st_ino
    before, after = load(bench.graph(config).path), load(tmp_path)
    # The float weight of a quantized layer has left the graph.
    quantized = {f"{name}.weight" for name in
                 checkpoint.Checkpoint(bench.checkpoint(config).path).layers}  # fmt: skip
    assert quantized <= {tensor.name for tensor in before.graph.initializer}
    assert not quantized & {tensor.name for tensor in after.graph.initializer}


def test_convolutions_may_stay_float(bench, tmp_path):
    config = bench.recipe("quant=int8", "quant_level=2")
    options = dataclasses.replace(ONNX_RUNTIME, convolutions=Convolutions.float)
    inserted = bench.edited(config, tmp_path, options)["settings"]["inserted"]
    assert set(inserted["layers"]) == {"linear"}
    assert inserted["left_float"] > 0


def test_equal_inputs_are_quantized_once(bench, tmp_path):
    """Without smoothing q, k and v read the same tensor at the same scale."""
    config = bench.recipe("quant=int8", "quant_level=2.5", "quant.smooth=false")
    inserted = bench.edited(config, tmp_path)["settings"]["inserted"]
    total = sum(inserted["layers"].values())
    assert inserted["shared_inputs"] > 0
    assert inserted["nodes"]["QuantizeLinear"] == total - inserted["shared_inputs"]


class TestWhatIsWrongIsRefused:
    def test_a_layer_that_the_graph_lacks(self, bench, tmp_path):
        config = bench.recipe("quant=int8", "quant_level=1")
        model = load(bench.graph(config).path)
        stored = checkpoint.Checkpoint(bench.checkpoint(config).path)
        lost = next(iter(stored.layers))
        for node in model.graph.node:
            if f"{lost}.weight" in node.input:
                del node.metadata_props[:]
        graph = tmp_path / "graph"
        graph.mkdir()
        onnx.save(model, graph / graphs.MODEL)
        with pytest.raises(SdxlError, match="another model") as caught:
            qdq.quantize(graph, bench.checkpoint(config).path, tmp_path, TENSORRT)
        assert lost in str(caught.value)

    def test_a_checkpoint_of_another_width(self, bench, tmp_path):
        config = bench.recipe("quant=int8", "quant_level=1")
        model = load(bench.graph(config).path)
        name = f"{next(iter(checkpoint.Checkpoint(bench.checkpoint(config).path).layers))}.weight"
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.dims[0] *= 2
        graph = tmp_path / "graph"
        graph.mkdir()
        onnx.save(model, graph / graphs.MODEL)
        with pytest.raises(SdxlError, match="another model"):
            qdq.quantize(graph, bench.checkpoint(config).path, tmp_path, TENSORRT)

    @pytest.mark.parametrize("damage", ["half", "lost", "extra"])
    def test_the_count_is_taken_from_the_graph(self, bench, tmp_path, damage):
        config = bench.recipe("quant=int8", "quant_level=3")
        bench.edited(config, tmp_path, TENSORRT)
        model = load(tmp_path)
        expected = dict(checkpoint.Checkpoint(bench.checkpoint(config).path).layers)
        check.complete(model, expected)
        name = next(iter(expected))
        node = next(n for n in model.graph.node if n.op_type == "Conv" and module_of(n) == name)
        if damage == "extra":
            del expected[name]
        else:
            node.input[0] = "sample"
        if damage == "lost":
            node.input[1] = "sample"
        message = {"half": "by half", "lost": "not quantized", "extra": "not selected"}[damage]
        with pytest.raises(SdxlError, match=message) as caught:
            check.complete(model, expected)
        assert name in str(caught.value)

    def test_a_scale_that_fp16_cannot_hold(self, bench, tmp_path):
        config = bench.recipe("quant=int8", "quant_level=1")
        model = load(bench.graph(config).path)
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                tensor.data_type = onnx.TensorProto.FLOAT16
        graph, stored = tmp_path / "graph", tmp_path / "checkpoint"
        graph.mkdir()
        stored.mkdir()
        onnx.save(model, graph / graphs.MODEL)
        from safetensors.torch import load_file, save_file

        place = bench.checkpoint(config).path
        tensors = load_file(place / checkpoint.WEIGHTS)
        name = next(name for name in tensors if name.endswith("weight_amax"))
        tensors[name] *= 1e-5
        save_file(tensors, stored / checkpoint.WEIGHTS)
        (stored / checkpoint.LAYERS).write_text((place / checkpoint.LAYERS).read_text())
        with pytest.raises(SdxlError, match="too small"):
            qdq.quantize(graph, stored, tmp_path, TENSORRT)


def test_scales_are_those_of_the_checkpoint(bench, tmp_path):
    config = bench.recipe("quant=int8", "quant_level=2.5")
    bench.edited(config, tmp_path, TENSORRT)
    held = {t.name: t for t in load(tmp_path).graph.initializer if not t.external_data}
    stored = checkpoint.Checkpoint(bench.checkpoint(config).path)
    for name, layer in stored.layers.items():
        assert layer.format is Format.int8
        scale = numpy_helper.to_array(held[f"{name}/input_scale"])
        assert scale == np.float32(float(stored.tensor(f"{name}.input_amax")) / 127)
        if layer.kind == "linear":
            factors = numpy_helper.to_array(held[f"{name}/input_factors"])
            assert (factors == stored.tensor(f"{name}.pre_quant_scale").numpy()).all()


def test_artifacts_are_known_by_their_parents_and_layout(bench):
    config = bench.recipe("quant=int8", "quant_level=2")
    graph, made = bench.graph(config), bench.checkpoint(config)
    first = qdq.get(config, graph, made)
    assert first.manifest.parents == [graph.manifest.key, made.manifest.key]
    assert first.manifest.seconds < 2
    assert qdq.get(config, graph, made) == first
    other = bench.recipe("quant=int8", "quant_level=2", "export.convolutions=conv")
    assert qdq.get(other, graph, made).manifest.key != first.manifest.key
    next_level = bench.checkpoint(bench.recipe("quant=int8", "quant_level=3"))
    assert qdq.get(config, graph, next_level).manifest.key != first.manifest.key
    assert store.find(qdq.KIND, first.manifest.key)


def test_fp8_in_onnx_runtime_asks_for_basic_optimization(bench):
    with pytest.raises(ConfigError, match="optimization=basic"):
        bench.config("quant=fp8")
    assert bench.config("quant=fp8", "backend.optimization=basic").quant.format is Format.fp8
