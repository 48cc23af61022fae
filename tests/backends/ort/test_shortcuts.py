"""Shortcuts in ONNX Runtime: fewer rows through the one graph, and the UNet in two graphs."""

import numpy as np
import onnx
import pytest

from sdxl.config import graphs
from sdxl.config.load import load as check
from sdxl.config.plugins import backend_of
from sdxl.core.errors import ConfigError
from sdxl.model import prompts
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source

STEPS = ("limit=2", "model.steps=6", "model.noise=per_prompt")


@pytest.fixture
def latents(exported, composed, chain_of):
    """Words -> latents of two prompts, and the artifacts that drew them."""

    def draw(*words):
        config = check(composed(*exported.words, *STEPS, *words))
        loads = chain_of(config).loads
        chosen = prompts.load(config.dataset, config.limit, config.seed)
        stages = backend_of(config).open(config, loads)
        sampler = Sampler(stages, open_source(config.model, config.seed), config, chosen)
        found = sampler.latents([0, 1]).numpy()
        alone = sampler.latents([1]).numpy()[0]
        np.testing.assert_allclose(alone, found[1], rtol=1e-3, atol=1e-3)
        sampler.close()
        return found, loads

    return draw


def test_guidance_cutoff_is_torchs(latents):
    words = ("shortcut=guidance_cutoff", "shortcut.until=0.34")
    (ours, loads), (theirs, _) = latents("backend=ort", *words), latents("backend=torch", *words)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-4)
    assert set(loads) == set(graphs.GRAPHS)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("shortcut=deepcache",),
                                   ("shortcut=deepcache_cutoff", "shortcut.branch=2")])  # fmt: skip
def test_two_graphs_with_one_file_of_weights_draw_what_torch_draws(latents, words):
    (ours, loads), (theirs, _) = latents("backend=ort", *words), latents("backend=torch", *words)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-4)
    deep, shallow = (loads[graph] for graph in graphs.PARTS)
    assert (deep / graphs.WEIGHTS).samefile(shallow / graphs.WEIGHTS)
    nodes = [len(onnx.load(each / graphs.MODEL, load_external_data=False).graph.node)
             for each in (deep, shallow)]  # fmt: skip
    assert nodes[1] < nodes[0] / 2


@pytest.mark.slow
def test_both_graphs_compute_in_integers(latents):
    words = ("shortcut=deepcache", "quant=int8", "quant_level=3", "calib_size=1",
             "quant.report_prompts=0")  # fmt: skip
    found, loads = latents("backend=ort", *words)
    assert np.isfinite(found).all()
    deep, shallow = (loads[graph] / graphs.WEIGHTS for graph in graphs.PARTS)
    assert deep.samefile(shallow), "the quantized graphs share the exported weights"
    for graph in graphs.PARTS:
        model = onnx.load(loads[graph] / graphs.MODEL, load_external_data=False)
        assert any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def test_what_graphs_cannot_do_is_said(load):
    with pytest.raises(ConfigError, match="keeps no cross-attention"):
        load("backend=ort", "shortcut=tgate")
    with pytest.raises(ConfigError, match="graphs of one size"):
        load("backend=ort", "shortcut=deepcache", "export.dynamic_size=true")
