"""The UNet's parts as graphs, run by torch: what each takes and leaves, and which call each is."""

import pytest
import torch

from sdxl.backends.torch import BACKEND
from sdxl.config import graphs, shortcuts
from sdxl.export import modules
from sdxl.model import guidance, prompts
from sdxl.model.graph_stages import GraphStages
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source
from tests.model.deep_feature import DeepFeature, KeptCross, plain_loop

WORDS = ("rules=open", "model.steps=6", "model.height=64", "model.width=64",
         "model.noise=per_prompt", "backend.loop=scheduler")  # fmt: skip
COMBINED = ("shortcut=deepcache_tgate", "shortcut.interval=2", "shortcut.branch=4",
            "shortcut.gate=0.5")  # fmt: skip


class Graphs(GraphStages):
    """Exportable networks in the place of graphs; the names of those that were called."""

    def __init__(self, config, source):
        self.networks = {
            graph: modules.prepare(config, source, graph, 2)
            for graph in graphs.of(config)
            if graph != "vae_decoder"
        }
        self.called = []
        calls = {graph: self.call(graph) for graph in self.networks}
        super().__init__(calls, torch.device("cpu"), torch.float32, None, config.shortcut)

    def call(self, graph):
        network = self.networks[graph]

        def run(tensors, unread=()):
            found = network.module(*(tensors[name] for name in network.names))
            found = found if isinstance(found, tuple) else (found,)
            self.called += [graph] if graphs.is_unet(graph) else []
            made = dict(zip(network.outputs, found, strict=True))
            return {name: each for name, each in made.items() if not name.startswith(unread)}

        return run


@pytest.fixture(scope="module")
def drawn(load):
    """Words -> stages of graphs that drew two prompts, their latents, and torch's sampler."""

    def draw(*words):
        config = load(*WORDS, *words)
        source, chosen = open_source(config.model, 0), prompts.load(config.dataset, 2, 0)
        stages = Graphs(config, source)
        found = Sampler(stages, source, config, chosen).latents([0, 1])
        return stages, found, Sampler(BACKEND.open(config, {}), source, config, chosen)

    return draw


@torch.inference_mode()
def test_each_call_is_its_graph_and_pictures_are_those_of_the_plain_loop(drawn):
    stages, found, torchs = drawn(*COMBINED)
    deep, shallow, deep_gated, shallow_gated = graphs.unets(stages.shortcut)
    assert stages.called == [deep, shallow, deep, shallow_gated, deep_gated, shallow_gated]
    unet = torchs.stages.modules["unet"]
    with DeepFeature(unet, 4, (0, 2, 4)) as features, KeptCross(unet, gate=3) as crosses:

        def step(number):
            features.step(number)
            crosses.step(number)

        expected = plain_loop(torchs, [0, 1], step)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    taken = {name for name in stages.networks[shallow_gated].names if name.startswith("cross_")}
    recorded = len(stages.networks[deep].outputs) - 2
    assert 0 < len(taken) < recorded, "the layers above the feature alone"


@torch.inference_mode()
def test_a_part_that_takes_its_own_leavings_is_the_whole_unet(load):
    config = load(*WORDS, *COMBINED)
    source = open_source(config.model, 0)
    whole = modules.prepare(load(*WORDS), source, "unet", 1)
    first, *rest = graphs.unets(config.shortcut)
    given = dict(zip(whole.names, whole.inputs, strict=True))
    (expected,) = whole.run()
    deep = modules.prepare(config, source, first, 1)
    left = dict(zip(deep.outputs, deep.run(), strict=True))
    torch.testing.assert_close(left["noise"], expected)
    given |= {name.removeprefix("kept_"): each for name, each in left.items()}
    for graph in rest:
        part = modules.prepare(config, source, graph, 1)
        noise = part.module(*(given[name] for name in part.names))[0]
        torch.testing.assert_close(noise, expected, msg=graph)


def test_rows_of_graphs(load):
    config = load(*WORDS, *COMBINED)
    per_image = guidance.rows_of(config)
    assert [graphs.rows(graph, 3, per_image) for graph in graphs.unets(config.shortcut)] == [
        6, 6, 3, 3,
    ]  # fmt: skip
    assert graphs.rows("unet_deep", 3, 1) == 3, "a model without guidance"
    for words in ((), ("shortcut=deepcache",), ("shortcut=tgate",), COMBINED):
        shortcut = load(*WORDS, *words).shortcut
        steps = shortcuts.steps_of(shortcut, 6, guided=True)
        made = {graphs.unet_of(shortcut, step) for step in steps}
        assert made == set(graphs.unets(shortcut)), "all are called, no other is"
        assert graphs.has_all_layers(graphs.unets(shortcut)[0])
