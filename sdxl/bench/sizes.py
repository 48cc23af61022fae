"""The batch sizes of a test: each is drawn in the warm-up, none for the first time in the test.

Where a size has to be prepared (a CUDA graph captured, code compiled, kernels timed) Server could
ask for any up to the largest. Drawing each in the warm-up would cost n(n+1)/2 pictures, a graph
and its compiled code for every size. So only powers of two, one and a half times them and the
largest are prepared, and a batch between them is padded by repeating its last sample, whose extra
pictures are dropped: at most a third of a batch, and hardly ever under load, when batches are
full. Where nothing is kept by size (eager code on a CPU) padding would only cost: batches stay.
"""

from __future__ import annotations

from sdxl.config import schema
from sdxl.config.derive import batch_size
from sdxl.config.schema import Mode


def warm_up_sizes(config: schema.Config, count: int, by_shape: bool) -> list[int]:
    """Batch sizes that a test of `count` prompts may see, the largest last.

    `by_shape`: sizes have to be prepared, and all others will be padded to the next of these.
    Else only the smallest and the largest that it will surely see.
    """
    scenario = config.scenario
    if isinstance(scenario, schema.MultiStream):
        query = scenario.samples_per_query
        most = min(batch_size(config), query)
        return sorted({query % most or most, most})
    most = min(batch_size(config), count)
    server = isinstance(scenario, schema.Server | schema.LoadCurve)
    if by_shape:
        if _may_repeat(scenario, config.mode, count):
            most = batch_size(config)
        if server:
            return prepared(most)
    return sorted({1 if server else count % most or most, most})


def full_batch(config: schema.Config, size: int, seconds: float) -> int:
    """The batch of an Offline test that asks for all prompts several times, else `size`.

    A batch of `size` prompts, all there are, took `seconds`: a test that must last longer repeats
    them, and fills batches that are faster per picture than what the warm-up has seen.
    """
    scenario = config.scenario
    offline = isinstance(scenario, schema.Offline) and _may_repeat(scenario, config.mode, size)
    longer = seconds * 1e3 < scenario.min_duration_ms
    return max(size, batch_size(config)) if offline and longer else size


def prepared(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ... up to `most`, which is always among them."""
    powers = [2**n for n in range(most.bit_length())]
    return sorted({size for n in powers for size in (n, n * 3 // 2) if size < most} | {most})


def _may_repeat(scenario: schema.Scenario, mode: Mode, count: int) -> bool:
    """Whether LoadGen may ask for more samples than there are prompts."""
    longer = scenario.min_duration_ms > 0 or (scenario.min_query_count or 0) > count
    return mode is Mode.performance and longer
