"""The four ONNX graphs: whole, typed, equal to torch, known by everything that decides them."""

import dataclasses
import json
import shutil

import numpy as np
import onnx as onnx_library
import pytest
import torch
from onnx import TensorProto, helper
from torch._subclasses.fake_tensor import FakeTensor

from sdxl.config import graphs
from sdxl.config.load import load as check
from sdxl.config.schema import Export
from sdxl.core import store
from sdxl.core.errors import ConfigError, SdxlError, UserError
from sdxl.export import modules, onnx, onnx_check, onnx_graph, parity
from sdxl.model import guidance
from sdxl.model.sources import open_source
from sdxl.run import export


def network(config, graph, images=1):
    return modules.prepare(config, open_source(config.model, config.seed), graph, images)


def test_export_makes_four_graphs_that_compute_what_torch_does(exported):
    outcome = exported.outcome
    assert [(p["graph"], p["kind"]) for p in outcome["pieces"]] == [
        (graph, "onnx") for graph in graphs.GRAPHS
    ]
    assert outcome["built"] == 4 and outcome["cached"] == 0
    for graph, least in zip(graphs.GRAPHS, (10, 20, 60, 40), strict=True):
        found = outcome["parity"][graph]
        assert found["layers"] > least
        assert max(found["outputs"].values()) < 1e-5
        assert found["worst"][0]["deviation"] < 1e-5
        assert (exported.folder(graph) / graphs.WEIGHTS).stat().st_size > 100_000
        assert f"{graph} beside torch" in exported.screen


def test_a_unet_traced_without_weights_is_the_one_traced_with_them(exported, asked, tmp_path):
    """To the byte: both files."""
    whole = network(asked(), "unet", modules.EXAMPLE_IMAGES)
    onnx_graph.save(onnx_graph.build(whole, graphs.opset(asked(), "unet")), tmp_path)
    for name in (graphs.MODEL, graphs.WEIGHTS):
        assert (tmp_path / name).read_bytes() == (exported.folder("unet") / name).read_bytes()
    source = open_source(asked().model, 0)
    bare = modules.prepare(asked(), source, "unet", 1, shapes=True).module.conv_in.weight
    assert isinstance(bare, FakeTensor), "the export did trace without"
    spent = store.find("onnx", onnx.key(asked(), "unet")).manifest.settings["cpu_seconds"]
    steps = ["loading", "tracing", "simplifying", "reading weights", "writing", "checking"]
    assert list(spent) == steps


def test_a_second_export_finds_all_and_says_so(exported, asked, chain_of, capsys):
    chain = chain_of(asked())
    assert [piece.built for piece in chain.pieces] == [False] * 4
    export._show(chain)
    assert capsys.readouterr().err.count("cached: the same key") == 4


def test_a_plan_lists_the_whole_chain_and_what_is_cached(exported, asked, composed, capsys):
    plan = export.run(asked("plan=true"), exported.store).figures
    assert [row["graph"] for row in plan["plan"]] == list(graphs.GRAPHS)
    assert (plan["cached"], plan["to_build"]) == (4, 0)
    assert capsys.readouterr().err.count("cached") == 4
    other = export.run(asked("plan=true", "seed=1"), exported.store).figures
    assert (other["cached"], other["to_build"]) == (0, 4)
    words = ["quant=int8", "quant_level=2", "calib_size=3", "plan=true"]
    quantized = export.run(asked(*words), exported.store).figures
    assert [(row["kind"], row["there"]) for row in quantized["plan"]] == [
        ("statistics", False), ("checkpoint", False), *[("onnx", True)] * 4, ("qdq", False),
    ]  # fmt: skip
    assert all(row["key"] for row in quantized["plan"])


def test_a_plan_of_engines_names_what_cannot_be_told_yet(exported, composed, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = [*exported.words, "backend=trt", "plan=true", "backend.batch_size=5"]
    there = check(composed(*words, "backend.flavor=tensorrt"))
    plan = export.run(there, exported.store).figures
    assert [row["kind"] for row in plan["plan"]] == ["onnx"] * 4 + ["engine"] * 4
    assert [row["there"] for row in plan["plan"]] == [True] * 4 + [None] * 4
    assert any("only on the GPU it builds for" in what for what in plan["missing"])
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    rtx = export.run(check(composed(*words, "backend.flavor=rtx")), exported.store).figures
    assert [row["there"] for row in rtx["plan"]] == [True] * 4 + [False] * 4
    assert all(row["key"] for row in rtx["plan"]) and not rtx["missing"]
    other = export.run(
        check(composed(*words, "backend.flavor=rtx", "seed=1")), exported.store
    ).figures
    assert [(row["key"] is None, row["there"]) for row in other["plan"][4:]] == [(True, False)] * 4


def test_weights_keep_their_names_and_nodes_their_modules(exported, asked):
    model = onnx_library.load(exported.folder("unet") / graphs.MODEL, load_external_data=False)
    ours = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    theirs = {
        name: tuple(tensor.shape)
        for name, tensor in network(asked(), "unet").module.state_dict().items()
    }
    assert set(theirs) <= set(ours)
    name = "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2.weight"
    assert ours[name] == theirs[name][::-1]  # as MatMul reads it: no Transpose is left
    assert ours["conv_in.weight"] == theirs["conv_in.weight"]
    assert "mid_block.attentions.0.transformer_blocks.0.attn2.to_k" in parity.layer_outputs(model)
    text = (exported.folder("unet") / graphs.MODEL).read_bytes()
    assert b"site-packages" not in text  # no folders of the machine that exported


@pytest.mark.parametrize("images", [1, 2, 4])
@pytest.mark.parametrize("graph", graphs.GRAPHS)
def test_the_batch_is_free(exported, asked, graph, images):
    """Guidance doubles the rows of all but the decoder."""
    example = network(asked(), graph, images)
    rows = images if graph == "vae_decoder" else 2 * images
    assert example.inputs[0].shape[0] == rows
    ours = parity.run(exported.folder(graph) / graphs.MODEL, example, [])
    for mine, theirs in zip(ours, example.run(), strict=True):
        assert mine.shape[0] == rows
        assert parity.deviation(mine, theirs.numpy()) < 1e-5


def test_the_rows_of_a_profile(asked):
    guided, plain = asked(), asked("model.guidance=1")
    assert graphs.row_range("unet", (1, 2, 4), guidance.rows_of(guided)) == (2, 4, 8)
    assert graphs.row_range("unet", (1, 2, 4), guidance.rows_of(plain)) == (1, 2, 4)
    assert graphs.row_range("text_encoder", (1, 2, 4), guidance.rows_of(guided)) == (1, 4, 8)
    assert graphs.row_range("vae_decoder", (1, 2, 4), guidance.rows_of(guided)) == (1, 2, 4)


def test_sixteen_bits_are_one_type_throughout(asked, tmp_path):
    """The fp32 sinusoids of time_ids would make the concatenation mix types."""
    config = asked("precision=fp16")
    made = onnx.get(config, "unet")
    model = onnx_library.load(made.path / graphs.MODEL, load_external_data=False)
    inferred = onnx_library.shape_inference.infer_shapes(model, strict_mode=True)
    assert onnx_check.mixed_types(inferred) == []
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}
    assert TensorProto.FLOAT16 in kinds
    assert set(made.manifest.settings["layers"]) == {"fp16"}
    found = parity.compare(config, "unet", made.path)
    assert 1e-6 < found["outputs"]["noise"] < parity.TOLERANCE[config.precision.unet]


def test_a_unet_that_takes_the_guidance_scale_has_it_as_an_input(exported, asked, tmp_path):
    file = tmp_path / "lcm.json"
    file.write_text(json.dumps(json.loads((exported.store.parent / "unet.json").read_text())
                               | {"time_cond_proj_dim": 24}))  # fmt: skip
    config = asked(f"model.unet_config={file}")
    example = network(config, "unet", images=3)
    assert example.names == (*graphs.INPUTS["unet"], graphs.GUIDANCE)
    assert example.inputs[0].shape[0] == 3, "one row a picture, whatever the guidance"
    assert example.inputs[-1].shape == (3, 24)
    made = onnx.get(config, "unet")
    assert parity.compare(config, "unet", made.path)["outputs"]["noise"] < 1e-5
    ours = parity.run(made.path / graphs.MODEL, example, [])
    assert parity.deviation(ours[0], example.run()[0].numpy()) < 1e-5
    louder = dataclasses.replace(example, inputs=(*example.inputs[:-1], example.inputs[-1] * 3))
    other = parity.run(made.path / graphs.MODEL, louder, [])
    assert parity.deviation(other[0], ours[0]) > 1e-3, "it counts"


def test_mixed_types_are_found():
    nodes = [helper.make_node("Concat", ["half", "single"], ["out"], "join", axis=0)]
    inputs = [
        helper.make_tensor_value_info("half", TensorProto.FLOAT16, [1]),
        helper.make_tensor_value_info("single", TensorProto.FLOAT, [1]),
    ]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [2])
    model = helper.make_model(helper.make_graph(nodes, "mixed", inputs, [output]))
    assert onnx_check.mixed_types(model) == ["Concat join has FLOAT and FLOAT16"]


def test_a_damaged_weight_does_not_pass(exported, asked, tmp_path):
    shutil.copytree(exported.folder("text_encoder"), tmp_path / "graph")
    file = tmp_path / "graph" / graphs.WEIGHTS
    stored = np.fromfile(file, np.uint8)
    stored[:100_000].view(np.float32)[:] *= 1.01
    stored.tofile(file)
    with pytest.raises(SdxlError, match="does not compute what torch does"):
        parity.compare(asked(), "text_encoder", tmp_path / "graph")


def test_a_layer_that_is_lost_does_not_pass(exported, asked, tmp_path):
    shutil.copytree(exported.folder("text_encoder"), tmp_path / "graph")
    path = tmp_path / "graph" / graphs.MODEL
    model = onnx_library.load(path, load_external_data=False)
    for node in model.graph.node:
        if "fc1" in str(node.metadata_props):
            del node.metadata_props[:]
    onnx_library.save(model, path)
    with pytest.raises(SdxlError, match=r"layers of text_encoder are not in its graph"):
        parity.compare(asked(), "text_encoder", tmp_path / "graph")


@pytest.mark.parametrize(
    ("graph", "words", "changes"),
    [
        ("unet", ["export.opset=20"], True),
        ("unet", ["export.dynamic_size=true"], True),
        ("unet", ["model.height=128"], True),
        ("unet", ["precision.unet=fp16"], True),
        ("unet", ["seed=1"], True),
        ("unet", ["precision.vae=bf16"], False),
        ("unet", ["model.guidance=1"], False),
        ("unet", ["backend.batch_size=2"], False),
        ("unet", ["quant=int8", "quant_level=3"], False),  # one graph serves every recipe
        ("unet", ["quant=int4_weight_only"], True),  # but INT4 needs a higher opset
        ("text_encoder", ["model.height=128"], False),
        ("vae_decoder", ["precision.vae=bf16"], True),
    ],
)
def test_the_key_follows_what_decides_the_graph(asked, graph, words, changes):
    assert (onnx.key(asked(*words), graph) != onnx.key(asked(), graph)) is changes


@pytest.mark.parametrize(("words", "one"), [(["export.dynamic_size=true"], True), ([], False)])
def test_a_dynamic_graph_serves_every_size(exported, composed, words, one):
    plain = [word for word in exported.words if "height" not in word and "width" not in word]
    sizes = [
        check(composed("backend=ort", *plain, *words, f"size={s}")) for s in ("96x64", "64x96")
    ]
    keys = {onnx.key(config, graph) for config in sizes for graph in ("unet", "vae_decoder")}
    assert len(keys) == (2 if one else 4)


def test_another_exporter_is_another_key(asked, monkeypatch):
    before = onnx.key(asked(), "unet")
    monkeypatch.setattr(onnx, "versions", lambda: {"torch": "9.9"})
    assert onnx.key(asked(), "unet") != before


def test_a_vae_that_draws_nothing_is_refused(asked):
    example = network(asked("precision.vae=bf16"), "vae_decoder")
    onnx_check.decodes(example)
    with torch.no_grad():
        example.module.decoder.conv_out.weight.fill_(float("inf"))
    with pytest.raises(SdxlError, match="the VAE draws NaN"):
        onnx_check.decodes(example)


def test_the_opset_must_hold_the_formats(asked):
    assert graphs.opset(asked(), "unet") == 19
    assert graphs.opset(asked("precision=bf16"), "unet") == 22
    assert graphs.opset(asked("export.opset=21"), "unet") == 21
    with pytest.raises(ConfigError, match=r"export\.opset"):
        asked("export.opset=18")


def test_settings_of_graphs_are_refused_where_none_is_loaded(composed):
    default = Export()
    assert not default.parity
    with pytest.raises(ConfigError, match=r"export\.parity.* would be ignored"):
        check(composed("export.parity=true"))
    config = check(composed("backend=torch"))
    with pytest.raises(UserError, match="the torch backend loads no graph"):
        export.run(config, None)
