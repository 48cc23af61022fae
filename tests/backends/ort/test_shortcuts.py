"""Shortcuts in ONNX Runtime: fewer rows through the one graph, and the UNet in two graphs."""

from importlib.util import find_spec

import numpy as np
import onnx
import pytest

from sdxl.config import graphs, schema
from sdxl.config.load import load as check
from sdxl.config.plugins import backend_of
from sdxl.core.errors import ConfigError
from sdxl.model import prompts
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source
from tests.model.deep_feature import DeepFeature, KeptCross, plain_loop

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


@pytest.fixture
def plain(exported, composed):
    """Words -> the torch backend's sampler."""

    def open_(*words):
        config = check(composed(*exported.words, *STEPS, "backend.loop=scheduler", *words))
        source, chosen = open_source(config.model, config.seed), prompts.load(config.dataset, 2, 0)
        return Sampler(backend_of(config).open(config, {}), source, config, chosen)

    return open_


def test_guidance_cutoff_is_torchs(latents):
    words = ("shortcut=guidance_cutoff", "shortcut.until=0.34")
    (ours, loads), (theirs, _) = latents("backend=ort", *words), latents("backend=torch", *words)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-4)
    assert set(loads) == set(graphs.GRAPHS)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("shortcut=deepcache",), ("shortcut=deepcache_cutoff",)])
def test_two_graphs_with_one_file_of_weights_draw_what_torch_draws(latents, words):
    (ours, loads), (theirs, _) = latents("backend=ort", *words), latents("backend=torch", *words)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-4)
    deep, shallow = (loads[graph] for graph in graphs.unets(schema.DeepCache("deepcache")))
    assert (deep / graphs.WEIGHTS).samefile(shallow / graphs.WEIGHTS)
    nodes = [len(onnx.load(each / graphs.MODEL, load_external_data=False).graph.node)
             for each in (deep, shallow)]  # fmt: skip
    assert nodes[1] < nodes[0] / 2


TGATE = ("shortcut=tgate", "shortcut.gate=0.5")
BOTH = ("shortcut=deepcache_tgate", "shortcut.gate=0.5", "shortcut.interval=2", "shortcut.branch=2")


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "words", "deep"), [
    (("backend=ort",), TGATE, range(6)), (("backend=ort",), BOTH, (0, 2, 4)),
    (("backend=openvino", "backend.static_batch=true", "backend.batch_size=2"), BOTH, (0, 2, 4)),
])  # fmt: skip
def test_kept_cross_attention_is_that_of_a_plain_loop(latents, plain, backend, words, deep):
    """Every call of the whole UNet and of both rows, kept values put in their places."""
    if "backend=openvino" in backend and not find_spec("openvino"):
        pytest.skip("OpenVINO: pip install -e .[openvino]")
    (ours, loads), loop = latents(*backend, *words), plain(*words)
    unet = loop.stages.modules["unet"]
    with DeepFeature(unet, 2, deep) as features, KeptCross(unet, gate=3) as crosses:

        def step(number):
            features.step(number)
            crosses.step(number)

        theirs = plain_loop(loop, [0, 1], step)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=2e-4)
    if "backend=ort" in backend:
        whole, *parts = (loads[each] / graphs.WEIGHTS for each in loads if graphs.is_unet(each))
        assert parts and all(whole.samefile(part) for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("shortcut=deepcache",), TGATE])
def test_both_graphs_compute_in_integers(latents, words):
    words = (*words, "quant=int8", "quant_level=3", "calib_size=1", "quant.report_prompts=0")
    found, loads = latents("backend=ort", *words)
    assert np.isfinite(found).all()
    names = [graph for graph in loads if graphs.is_unet(graph) and graph != "unet"]
    whole, part = (loads[graph] / graphs.WEIGHTS for graph in names)
    assert whole.samefile(part), "the quantized graphs share the exported weights"
    for graph in names:
        model = onnx.load(loads[graph] / graphs.MODEL, load_external_data=False)
        assert any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def test_what_graphs_cannot_do_is_said(load):
    for backend in ("ort", "openvino", "trt"):
        with pytest.raises(ConfigError, match="graphs of one size"):
            load(f"backend={backend}", "shortcut=deepcache", "export.dynamic_size=true")
    for backend in ("openvino", "trt"):
        with pytest.raises(ConfigError, match="pads the rows") as refused:
            load(f"backend={backend}", "shortcut=deepcache_cutoff", "backend.static_batch=true")
        assert refused.value.problems[0].fix == "backend.static_batch=false"
