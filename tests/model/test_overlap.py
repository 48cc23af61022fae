"""One batch is decoded while the next is denoised: same pictures, none lost, errors at once."""

import dataclasses
import threading
import time

import numpy as np
import pytest

from sdxl.backends.torch import BACKEND
from sdxl.bench import generators
from sdxl.bench.batching import Batching
from sdxl.bench.sut import Sut
from sdxl.core.types import Sample
from sdxl.model import prompts
from sdxl.model.overlap import Overlapped
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source
from tests.backends.torch.test_loop import SMALL

STEP_S = 0.1


class Stages:
    """Latents and pictures are the indices; both take their time and write it down."""

    def __init__(self, broken=None):
        self.broken, self.spans, self.threads = broken, [], set()

    def spend(self, kind, latents):
        began = time.perf_counter()
        if self.broken == (kind, latents[0]):
            raise ValueError(kind)
        time.sleep(STEP_S)
        self.spans.append((kind, began, time.perf_counter()))
        return np.asarray(latents, np.uint8).reshape(-1, 1, 1, 1)

    def decode(self, latents):
        self.threads.add(threading.current_thread().name)
        return self.spend("decode", latents)

    def close(self):
        self.spans.append(("closed", time.perf_counter(), 0))


def overlapped(stages):
    """An `Overlapped` without a model."""

    class Toy(Overlapped):
        def latents(self, indices, on_step=None):
            stages.spend("denoise", list(indices))
            return list(indices)

    made = Toy.__new__(Toy)
    made.stages = stages
    Overlapped._start(made)
    return made


def test_the_decoder_works_beside_the_next_batch():
    stages, seen, errors = Stages(), [], []
    generator = overlapped(stages)
    sut = Sut(generator.generate, lambda batch, images: seen.append((batch, images)),
              errors.append, Batching(2, sizes=[2]), generator.begin)  # fmt: skip
    sut.issue([Sample(n, n) for n in range(7)])
    sut.close()
    began = time.perf_counter()
    sut.serve()
    seconds = time.perf_counter() - began
    assert not errors
    assert [[sample.index for sample in batch] for batch, _ in seen] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6],
    ]
    assert [images.ravel().tolist() for _, images in seen] == [[0, 1], [2, 3], [4, 5], [6]]
    assert sut.counts.done == sut.counts.issued == 7 and sut.counts.padded == 1
    spans = [span for span in stages.spans if span[0] == "denoise"]
    decodes = [span for span in stages.spans if span[0] == "decode"]
    for (_, begins, ends), (_, next_begins, next_ends) in zip(decodes, spans[1:], strict=False):
        assert next_begins < ends and begins < next_ends, "one beside the other"
    assert sut.counts.busy_s <= seconds, "what overlaps counts once"
    assert len(stages.threads) == 1 and threading.current_thread().name not in stages.threads
    generator.generate([9])
    assert len(stages.threads) == 1, "the warm-up's decoder is the measurement's"
    generator.close()
    assert stages.spans[-1][0] == "closed"


@pytest.mark.parametrize("broken", [("decode", 2), ("denoise", 2), ("decode", 6)])
def test_an_error_in_either_part_is_handed_over_once(broken):
    stages, seen, errors = Stages(broken), [], []
    generator = overlapped(stages)
    sut = Sut(generator.generate, lambda batch, images: seen.append(len(batch)), errors.append,
              Batching(2), generator.begin)  # fmt: skip
    sut.issue([Sample(n, n) for n in range(8)])
    sut.close()
    sut.serve()
    assert [str(error) for error in errors] == [broken[0]]
    assert sut.counts.done == sum(seen) < 8
    with pytest.raises(ValueError, match="decode"):
        stages.broken = ("decode", 1)
        generator.generate([1])
    stages.broken = None
    assert generator.generate([3]).ravel().tolist() == [3], "an error does not stay"


def test_the_pictures_are_the_samplers(load, monkeypatch):
    config = load(*SMALL)
    chosen = prompts.load(config.dataset, 4, 0)
    source = open_source(config.model, 0)
    plain = Sampler(BACKEND.open(config, {}), source, config, chosen)
    stages = BACKEND.open(config, {})
    opened = dataclasses.replace(BACKEND, open=lambda *_: stages)
    monkeypatch.setattr(generators, "backend_of", lambda _config: opened)
    assert type(generators.open_generator(config, {}, chosen)) is Sampler
    stages.overlap = True
    beside = generators.open_generator(config, {}, chosen)
    assert type(beside) is Overlapped and beside.describe()["overlap"] is True
    made = []
    first = beside.begin([0, 1], lambda decode: made.append(decode()))
    beside.begin([3, 2], lambda decode: made.append(decode())).result()
    first.result()
    for indices, pictures in zip(([0, 1], [3, 2]), made, strict=True):
        assert (pictures == plain.generate(indices)).all()
    beside.close()
