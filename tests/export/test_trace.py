"""Graphs kept without weights: who shares one, and that it is what a tracing gives."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from sdxl.config import graphs
from sdxl.core.errors import SdxlError
from sdxl.export import modules, onnx_graph, trace
from sdxl.export import onnx as export
from sdxl.model.sources import open_source


@pytest.fixture
def network(asked):
    """A graph's name and further words -> the network to export, and its configuration."""

    def prepare(graph, *words):
        config = asked(*words)
        source = open_source(config.model, config.seed)
        return config, modules.prepare(config, source, graph, 2, graphs.is_unet(graph))

    return prepare


def untraced(*_words, **_named):
    raise AssertionError("it was traced")


@pytest.mark.parametrize("graph", ["unet", "text_encoder_2"])
def test_another_seed_is_not_traced_and_has_its_own_weights(
    network, graph, exported, tmp_path, monkeypatch
):
    (config, ours), (_, theirs) = network(graph, "seed=5"), network(graph)
    monkeypatch.setattr(torch.onnx, "export", untraced)
    onnx_graph.save(export.build(config, ours), tmp_path)
    found = onnx.load(tmp_path / graphs.MODEL).graph
    first = onnx.load(exported.folder(graph) / graphs.MODEL, load_external_data=False).graph
    assert list(found.node) == list(first.node) and list(found.input) == list(first.input)
    values = {each.name: onnx.numpy_helper.to_array(each) for each in found.initializer}
    assert list(values) == [each.name for each in first.initializer]
    weights, others = (each.weights() for each in (ours, theirs))
    named = [name for name in weights if name in values]
    assert len(named) > 20 and not all(torch.equal(weights[name], others[name]) for name in named)
    for name in named:  # matrices lie the other way round
        both = weights[name].numpy(), weights[name].numpy().T
        assert any(np.array_equal(values[name], each) for each in both), name


def test_it_is_the_traced_graph_to_the_byte(network, tmp_path):
    config, ours = network("text_encoder")
    onnx_graph.save(onnx_graph.build(ours, graphs.opset(config, "text_encoder")), tmp_path)
    files = [tmp_path / name for name in (graphs.MODEL, graphs.WEIGHTS)]
    traced = [file.read_bytes() for file in files]
    onnx_graph.save(export.build(config, ours), tmp_path)
    assert [file.read_bytes() for file in files] == traced


def test_what_a_tracing_sees_is_in_the_key(network):
    config, ours = network("text_encoder")
    settings, opset = export.settings(config, "text_encoder"), 20
    usual = trace.key(settings, ours, opset)
    assert usual == trace.key({**settings, "weights_of": "unet"}, ours, opset)
    one_row = dataclasses.replace(ours, inputs=tuple(each[:1] for each in ours.inputs))
    others = [trace.key(settings, ours, 21), trace.key({**settings, "version": 2}, ours, opset),
              trace.key(settings, one_row, opset)]  # fmt: skip
    ours.module.config.layer_norm_eps *= 2
    others.append(trace.key(settings, ours, opset))
    ours.module.config.layer_norm_eps /= 2
    ours.module.half()
    others.append(trace.key(settings, ours, opset))
    assert len({usual, *others}) == 6


def test_a_weight_that_no_checkpoint_gives_is_named(network, monkeypatch):
    config, ours = network("text_encoder")
    export.build(config, ours)
    weights = ours.weights()
    weights.pop("text_model.final_layer_norm.weight", None)
    lost = next(name for name in weights if "layers.0" in name and name.endswith("weight"))
    monkeypatch.setattr(
        modules.Exportable, "weights", lambda _: {n: w for n, w in weights.items() if n != lost}
    )
    with pytest.raises(SdxlError, match="weights were lost"):
        export.build(config, ours)
