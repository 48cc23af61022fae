"""The chain of a small SDXL to engines: export, Q/DQ, TensorRT-RTX."""

import pytest

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

RTX = ("backend=trt", "backend.flavor=rtx", "backend.compute_capabilities=[sm89]",
       "precision.unet=fp16", "backend.batch_size=4")  # fmt: skip
QUANTIZED = {
    "int8": ("quant=int8", "quant_level=3", "calib_size=1", "quant.report_prompts=0"),
    "fp8": ("quant=fp8", "quant_level=4", "calib_size=1", "quant.report_prompts=0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", *QUANTIZED])
def test_every_graph_becomes_an_engine(kind, exported, composed, chain_of):
    from sdxl.config import graphs, load
    from sdxl.run import export_plan

    words = [*exported.words, *RTX, *QUANTIZED.get(kind, ())]
    asked = load.load(composed(*words))
    chain = chain_of(asked)
    assert {piece.graph: piece.manifest["kind"] for piece in chain.pieces[-4:]} == dict.fromkeys(
        graphs.GRAPHS, "engine"
    )
    assert all((folder / "model.engine").is_file() for folder in chain.loads.values())
    unet = chain.piece("unet").manifest["settings"]
    assert unet["rows"] == [2, 8, 8]
    counts = {bits: sum(unet["layers"][product].get(bits, 0) for product in ("conv", "matmul"))
              for bits in ("8", "16", "32")}  # fmt: skip
    assert counts["32"] == 0
    if kind == "none":
        assert counts["8"] == 0
    else:
        assert counts["8"] > counts["16"]
    assert not any(piece.built for piece in chain_of(asked).pieces)
    planned = export_plan.rows(asked)
    assert all(row["there"] for row in planned)
    keys = {(piece.graph, piece.manifest["kind"]): piece.manifest["key"] for piece in chain.pieces}
    assert {(r["graph"], r["kind"]): r["key"] for r in planned if r["kind"] != "statistics"} == keys


@pytest.mark.slow
def test_the_parts_of_a_unet_become_engines(exported, composed, chain_of):
    from sdxl.config import graphs, load

    asked = load.load(composed(*exported.words, *RTX, "shortcut=tgate", "shortcut.gate=0.5"))
    chain = chain_of(asked)
    whole, gated = graphs.unets(asked.shortcut)
    assert list(chain.loads) == list(graphs.of(asked))
    assert all((folder / "model.engine").is_file() for folder in chain.loads.values())
    rows = [chain.piece(graph).manifest["settings"]["rows"] for graph in (whole, gated)]
    assert rows == [[2, 8, 8], [1, 4, 4]]
    files = {p.graph: p.path / graphs.WEIGHTS for p in chain.pieces if p.manifest["kind"] == "onnx"}
    assert files[whole].samefile(files[gated])
    sizes = [(chain.loads[graph] / "model.engine").stat().st_size for graph in (whole, gated)]
    assert sizes[1] < sizes[0], "what the gate replaces is in no engine"
