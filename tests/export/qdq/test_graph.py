"""What a quantized graph is made of: kernels, files, nodes, scales, parents."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from sdxl.config import graphs
from sdxl.config.choices import Convolutions
from sdxl.config.schema import Format
from sdxl.core import store
from sdxl.export.qdq import artifact
from sdxl.export.qdq.options import ONNX_RUNTIME, TENSORRT, options_of
from sdxl.model import checkpoint
from tests.export.qdq import layerwise
from tests.export.qdq.layerwise import NAMES, load


@pytest.mark.parametrize("smooth", ["true", "false"])
def test_every_layer_runs_in_integers(bench, network, tmp_path, smooth):
    """Also where layers share their input's codes."""
    config = bench.recipe("quant=int8", "quant_level=3", f"quant.smooth={smooth}")
    inserted = bench.edited(config, tmp_path)["settings"]["inserted"]
    assert bool(inserted["shared_inputs"]) == (smooth == "false")
    session = layerwise.session(tmp_path, profile=str(tmp_path / "profile"))
    session.run(None, dict(zip(NAMES, (x.numpy() for x in network.inputs), strict=True)))
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [e["args"]["op_name"] for e in events if e["name"].endswith("_kernel_time")]
    layers = checkpoint.Checkpoint(bench.checkpoint(config).path).layers
    assert kernels.count("MatMulIntegerToFloat") == len(layers)
    assert "DequantizeLinear" not in kernels


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


def test_a_backend_of_ones_own_gets_the_standard_layout(load):
    config = load("backend=fake")
    config.backend.name = "mine"
    assert options_of(config) == TENSORRT
    config.export.convolutions = Convolutions.float
    assert options_of(config) == dataclasses.replace(TENSORRT, convolutions=Convolutions.float)


def test_equal_inputs_are_quantized_once(bench, tmp_path):
    """Without smoothing q, k and v read the same tensor at the same scale."""
    config = bench.recipe("quant=int8", "quant_level=2.5", "quant.smooth=false")
    inserted = bench.edited(config, tmp_path)["settings"]["inserted"]
    total = sum(inserted["layers"].values())
    assert inserted["shared_inputs"] > 0
    assert inserted["nodes"]["QuantizeLinear"] == total - inserted["shared_inputs"]


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
    began = time.process_time()
    first = artifact.get(config, graph, made)
    assert time.process_time() - began < 2
    assert first.manifest.parents == [graph.manifest.key, made.manifest.key]
    assert artifact.get(config, graph, made) == first
    other = bench.recipe("quant=int8", "quant_level=2", "export.convolutions=conv")
    assert artifact.get(other, graph, made).manifest.key != first.manifest.key
    next_level = bench.checkpoint(bench.recipe("quant=int8", "quant_level=3"))
    assert artifact.get(config, graph, next_level).manifest.key != first.manifest.key
    assert store.find(artifact.KIND, first.manifest.key)
