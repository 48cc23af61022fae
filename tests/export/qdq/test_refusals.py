"""What is wrong with a graph, a checkpoint or a setting is refused by name."""

from __future__ import annotations

import onnx
import pytest

from sdxl.config import graphs
from sdxl.config.schema import Format
from sdxl.core.errors import ConfigError, SdxlError
from sdxl.export.qdq import artifact, check
from sdxl.export.qdq.graph import module_of
from sdxl.export.qdq.options import TENSORRT
from sdxl.model import checkpoint
from tests.export.qdq.layerwise import load


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
            artifact.quantize(graph, bench.checkpoint(config).path, tmp_path, TENSORRT)
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
            artifact.quantize(graph, bench.checkpoint(config).path, tmp_path, TENSORRT)

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
            artifact.quantize(graph, stored, tmp_path, TENSORRT)


def test_fp8_in_onnx_runtime_asks_for_basic_optimization(bench):
    with pytest.raises(ConfigError, match="optimization=basic"):
        bench.config("quant=fp8")
    assert bench.config("quant=fp8", "backend.optimization=basic").quant.format is Format.fp8
