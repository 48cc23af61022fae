"""Every batch size of a test is drawn before it, and batches between prepared sizes are padded."""

import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdxl.bench import generators
from sdxl.bench.batching import Pace, padded
from sdxl.bench.sizes import prepared, warm_up_sizes
from sdxl.core.types import Sample
from tests.bench.test_sut import PICTURE, Harness


@given(most=st.integers(1, 200), size=st.integers(1, 200))
def test_every_batch_fits_a_prepared_size_that_is_a_third_larger_at_most(most, size):
    sizes = prepared(most)
    assert sizes == sorted(set(sizes)) and sizes[-1] == most
    assert len(sizes) <= 2 * most.bit_length()
    if size <= most:
        assert size <= padded(size, sizes) <= max(size, 1.5 * (size - 1))
    assert padded(most + 1, sizes) == most + 1 and padded(size, []) == size


@pytest.mark.parametrize(
    ("words", "count", "eager", "by_shape"),
    [
        (["scenario=Server"], 50, [1, 8], [1, 2, 3, 4, 6, 8]),
        (["scenario=Server"], 5, [1, 5], [1, 2, 3, 4, 6, 8]),
        (["scenario=Server", "mode=accuracy"], 5, [1, 5], [1, 2, 3, 4, 5]),
        (["scenario=Server", "scenario.min_duration_ms=0", "scenario.min_query_count=5"], 5,
         [1, 5], [1, 2, 3, 4, 5]),
        (["scenario=Offline"], 18, [2, 8], [2, 8]),
        (["scenario=Offline"], 5, [5], [5, 8]),
        (["scenario=Offline", "scenario.min_duration_ms=0"], 5, [5], [5]),
        (["scenario=SingleStream"], 5, [1], [1]),
        (["scenario=MultiStream", "scenario.samples_per_query=5", "backend.batch_size=2"], 4,
         [1, 2], [1, 2]),
    ],
)  # fmt: skip
def test_the_sizes_that_a_scenario_asks_for(load, words, count, eager, by_shape):
    config = load(*words)
    assert warm_up_sizes(config, count, by_shape=False) == eager
    assert warm_up_sizes(config, count, by_shape=True) == by_shape


class Drawing:
    """A generator that writes its batches down."""

    def __init__(self):
        self.batches = []

    def generate(self, indices):
        self.batches.append(list(indices))


class Silent:
    """A link nobody listens to."""

    def report(self, message):
        assert message["phase"] == "warming up"


@pytest.mark.parametrize(
    ("facts", "sizes"),
    [({}, [1, 8, 8]), ({"by_shape": False}, [1, 8, 8]),
     ({"by_shape": True}, [8, 6, 4, 3, 2, 1, 8, 8])],
)  # fmt: skip
def test_the_warm_up_draws_them_and_prepares_the_largest_first(load, facts, sizes):
    part = Drawing()
    warm, _ = generators.warm_up([part], load("scenario=Server"), 70, Silent(), facts)
    assert [len(batch) for batch in part.batches] == sizes
    assert set(warm.sizes) == set(sizes) and warm.by_shape == bool(facts.get("by_shape"))
    parts = [Drawing(), Drawing()]
    both, stages = generators.warm_up(parts, load("scenario=Server"), 5, Silent(), facts)
    assert parts[0].batches == parts[1].batches and stages == {}
    assert max(index for batch in parts[0].batches for index in batch) == 4, "prompts come again"
    assert both.images_per_second > 0


def drawn_by(batch, sizes, **words):
    made = []

    def generate(indices):
        made.append(list(indices))
        pictures = PICTURE.repeat(len(indices), axis=0)
        pictures[:, 0, 0, 0] = indices
        return pictures

    return Harness(batch, generate=generate, sizes=sizes, **words), made


@pytest.mark.parametrize("inline", [True, False])
def test_a_batch_between_the_sizes_is_filled_and_its_extra_pictures_dropped(inline):
    harness, made = drawn_by(8, [1, 2, 4, 8], inline=inline)
    seen = []
    harness.sut._complete = lambda batch, images: seen.append(
        ([sample.index for sample in batch], images[:, 0, 0, 0].tolist())
    )
    if not inline:
        harness.start()
    harness.sut.issue([Sample(n, n) for n in range(11)])
    harness.close() if not inline else None
    assert made == [list(range(8)), [8, 9, 10, 10]]
    assert seen == [(list(range(8)), list(range(8))), ([8, 9, 10], [8, 9, 10])]
    counts = harness.sut.counts
    assert (counts.done, counts.batches, counts.padded) == (11, 2, 1)
    assert harness.sut.batches.pace.of(4) > 0 and not harness.errors


def test_without_sizes_nothing_is_padded():
    harness, made = drawn_by(8, ())
    harness.run([11])
    assert [len(batch) for batch in made] == [8, 3] and harness.sut.counts.padded == 0


def test_a_late_batch_is_cut_to_what_a_size_really_costs():
    """Six cost as much as eight where they are padded: five is then no way out, four is."""
    harness, _ = drawn_by(8, [4, 8], limit_s=10.0)
    harness.sut.batches.pace = Pace()
    for size, seconds in ((4, 0.5), (8, 1.0)):
        harness.sut.batches.pace.note(size, seconds)
    since = time.perf_counter() - 8.8  # 0.7 s are left
    harness.sut.batches.waiting.extend((Sample(n, n), since) for n in range(6))
    assert harness.sut.batches._size() == 4


def test_a_replacement_prepares_the_same_sizes(load, monkeypatch):
    class Pool:
        def __init__(self, *_, **words):
            assert "warm" not in words

        def describe(self):
            return {"by_shape": True}

    monkeypatch.setattr(generators, "Pool", Pool)
    config = load("backend=fake", "backend.devices=[0]", "scenario=Server")
    pool = generators.open_all(config, {}, [None] * 20)
    assert [len(batch) for batch in pool.warm] == [8, 6, 4, 3, 2, 1, 8]


@pytest.mark.slow
def test_a_server_test_meets_no_size_for_the_first_time(cli):
    """Attention is timed by shape: all the shapes that it met are of prepared sizes."""
    done = cli("scenario=Server", "backend.attention=auto", "backend.batch_size=11", "limit=7",
               "rules=open", "model.steps=1", "model.height=64", "model.width=64",
               "scenario.target_qps=20", "scenario.max_wait_ms=300", "scenario.min_query_count=128",
               timeout=280)  # fmt: skip
    assert done.code in (0, 3), done.err
    found = done.record["performance"]
    assert found["warm_up"]["sizes"] == [1, 2, 3, 4, 6, 8, 11] and found["warm_up"]["by_shape"]
    shapes = found["generator"]["attention"]["shapes"]
    rows = {shape["query"][0] for shape in shapes}
    assert rows <= {size * times for size in (1, 2, 3, 4, 6, 8, 11) for times in (1, 2)}
    assert found["counts"]["padded"] > 0, "one of twenty batches has 5, 7, 9 or 10"
    assert "more to fill prepared sizes" in done.out


@pytest.mark.parametrize(
    ("flavor", "cuda_graphs", "static_batch", "by_shape"),
    [("tensorrt", False, False, False), ("tensorrt", True, False, True),
     ("rtx", False, False, True), ("rtx", True, True, False)],
)  # fmt: skip
def test_what_tensorrt_prepares(flavor, cuda_graphs, static_batch, by_shape):
    """An engine of one size pads by itself; otherwise RTX compiles, and graphs are captured."""
    from sdxl.backends.trt.stages import TrtStages
    from sdxl.config.engines import Flavor

    stages = TrtStages.__new__(TrtStages)
    stages.flavor, stages.gpu, stages.engines = Flavor(flavor), {"name": "GPU"}, {}
    stages.version = stages.device = stages.quantization = ""
    stages.activation_bytes = 0
    stages.settings = SimpleNamespace(
        cuda_graphs=cuda_graphs, static_batch=static_batch, weight_streaming=None
    )
    assert stages.describe()["by_shape"] is by_shape


@pytest.mark.parametrize(
    ("words", "seconds", "drawn"),
    [
        ([], 0.01, [2, 2, 8, 8]),  # 1 s of it asks for both prompts many times
        ([], 2.0, [2, 2]),  # slower than the test lasts: nothing comes twice
        (["scenario.min_duration_ms=0"], 0.01, [2, 2]),
        (["mode=accuracy"], 0.01, [2, 2]),
    ],
)
def test_fewer_prompts_than_a_batch_are_measured_in_full_batches(
    load, monkeypatch, words, seconds, drawn
):
    """Else LoadGen plans for too few samples, and the run is INVALID."""
    part, clock = Drawing(), iter(x for n in range(99) for x in (n, n + seconds))
    config = load("limit=2", *words)
    monkeypatch.setattr(generators, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    warm, _ = generators.warm_up([part], config, 2, Silent())
    assert [len(batch) for batch in part.batches] == drawn
    assert warm.images_per_second == pytest.approx(drawn[-1] / seconds)
