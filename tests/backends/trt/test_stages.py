"""Which engine computes which call, and what passes between them; torch plays the engines."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from sdxl.backends.trt.stages import TrtStages
from sdxl.config import graphs, schema, shortcuts
from sdxl.core.types import Embeddings
from sdxl.model.graph_stages import GraphStages
from sdxl.model.parts import Kept

IMAGES = 2


class Played:
    """An engine: adds what it was given beside the sample to the sample."""

    def __init__(self, graph, calls):
        self.graph, self.calls, self.part = graph, calls, graphs.UNETS[graph]
        self.inputs = ["sample", *graphs.INPUTS[graph][5:]]
        self.inputs += ["cross_0", "cross_1"] if "gated" in graph else []

    def pad(self, inputs):
        return {name: inputs[name] for name in self.inputs}

    def run(self, inputs, _stream):
        given = self.pad(inputs)
        assert len({len(each) for each in given.values()}) == 1, "as many rows in each"
        self.calls.append((self.graph, len(given["sample"])))
        sample, found = given["sample"], {"noise": sum(given.values())}
        if self.part.keeps:
            found["kept_feature"] = 100 * sample
        if "recorded" in self.graph:
            found |= {f"kept_cross_{place}": 1000 * sample for place in range(2)}
        return found


@pytest.fixture(params=[False, True], ids=["plain", "recorded"])
def stages(request):
    """Stages on played engines; with `cuda_graphs` each size of each engine is recorded."""
    shortcut, calls = schema.DeepCacheTGate("deepcache_tgate", interval=2, gate=0.5), []
    found = TrtStages.__new__(TrtStages)
    found.settings = SimpleNamespace(cuda_graphs=request.param)
    found.stream, found._take_stream = SimpleNamespace(cuda_stream=7), lambda: None
    found.engines = {graph: Played(graph, calls) for graph in graphs.unets(shortcut)}
    found._recorded, found.seen = {}, calls
    found._record = lambda engine, _inputs, stream: partial(engine.run, _stream=stream)
    run = {graph: partial(found._run, graph) for graph in found.engines}
    GraphStages.__init__(found, run, torch.device("cpu"), torch.float32, None, shortcut)
    return found


def test_each_kind_of_call_has_its_engine(stages):
    kept, noises = Kept(), []
    for number, step in enumerate(shortcuts.steps_of(stages.shortcut, 6, guided=True)):
        rows = step.rows * IMAGES
        sample = torch.full((rows, 1, 1, 1), float(number + 1))
        given = Embeddings(torch.zeros(rows, 1, 1), torch.zeros(rows, 1), torch.zeros(rows, 6))
        noises.append(stages.part(step, sample, torch.tensor(5.0), given, kept))
    deep, shallow, deep_gated, shallow_gated = graphs.unets(stages.shortcut)
    assert stages.seen == [
        (deep, 4), (shallow, 4), (deep, 4), (shallow_gated, 2), (deep_gated, 2), (shallow_gated, 2),
    ]  # fmt: skip
    assert [len(noise) for noise in noises] == [4, 4, 4, 2, 2, 2]
    # sample, feature of the deep call before, two cross-attentions of the third call
    assert [noise[0].item() for noise in noises] == [1, 102, 3, 6304, 6005, 6506]
    if stages.settings.cuda_graphs:
        assert set(stages._recorded) == set(stages.seen)
