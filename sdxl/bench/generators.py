"""The generators of a run: one in this process, or one in each worker of a pool, warmed up."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sdxl.bench import pool_worker, stage_clock
from sdxl.bench.pool import Patience, Pool
from sdxl.bench.sizes import full_batch, warm_up_sizes
from sdxl.config import schema
from sdxl.config.derive import batch_size
from sdxl.config.mix import Kind
from sdxl.config.plugins import backend_of
from sdxl.core import isolate
from sdxl.core.types import Asks, Generator, Prompt
from sdxl.model import checkout


def open_all(
    config: schema.Config, artifacts: dict[str, Path], chosen: list[Prompt]
) -> Generator | Pool:
    """The generator in this process, or a pool of workers that each open one."""
    backend = config.backend
    if backend.devices is None:
        return open_generator(config, artifacts, chosen)
    patience = Patience(config.scenario.startup_s, backend.restarts)
    pool = open_pool(config, artifacts, chosen, patience)
    by_shape = bool(pool.describe().get("by_shape"))
    sizes = warm_up_sizes(config, len(chosen), by_shape)
    pool.warm = _batches(sizes, len(chosen), by_shape)
    return pool


def open_pool(
    config: schema.Config, artifacts: dict[str, Path], chosen: list[Prompt], patience: Patience
) -> Pool:
    """A worker for each of `backend.devices` (null: one), its generator open."""
    model = config.model
    return Pool(
        _open_in_worker,
        (config, artifacts, chosen),
        [0] if config.backend.devices is None else config.backend.devices,
        batch_size(config) * model.height * model.width * 3,
        preload=checkout.preloaded(model, backend_of(config).needs_torch, pool_worker.__name__),
        patience=patience,
    )


def _open_in_worker(
    config: schema.Config, artifacts: dict[str, Path], chosen: list[Prompt]
) -> Generator:
    checkout.use(config.model)
    return open_generator(config, artifacts, chosen)


def open_generator(
    config: schema.Config, artifacts: dict[str, Path], chosen: list[Prompt]
) -> Generator:
    """The backend's generator, or a sampler on its stages."""
    backend = backend_of(config)
    if not backend.needs_torch:
        generator: Generator = backend.open(config, artifacts)
        if isinstance(generator, Asks):
            generator.ask(chosen)
        return generator
    from sdxl.model.overlap import Overlapped
    from sdxl.model.sampler import Sampler
    from sdxl.model.sources import open_source

    source = open_source(config.model, config.seed)
    stages = backend.open(config, artifacts)
    kind = Overlapped if getattr(stages, "overlap", False) else Sampler
    return kind(stages, source, config, chosen)


def of_kind(config: schema.Config, kind: Kind) -> schema.Config:
    """The configuration that draws one kind of request."""
    chosen = copy.deepcopy(config)
    chosen.model.width, chosen.model.height = kind.width, kind.height
    chosen.model.steps = kind.steps
    return chosen


def warm_up(
    parts: Sequence[Any], config: schema.Config, count: int, link: isolate.Link,
    facts: Mapping[str, Any] = {},
) -> tuple[Any, dict[str, float]]:  # fmt: skip
    """Warm up the generator, or all lanes of a pool at the same time, whose rates add up.

    `facts` are the generator's: with `by_shape` it prepares itself for each batch size. Returns
    the rates, and the stages' milliseconds in the fastest full batch (of one generator).
    """
    by_shape = bool(facts.get("by_shape"))
    sizes = warm_up_sizes(config, count, by_shape)

    def one(part: Any) -> tuple[int, float, dict[str, float]]:
        repeats, size = config.scenario.warmup_batches, sizes[-1]
        seconds, stages = _one(part, repeats, _batches(sizes, count, by_shape), link)
        if (full := full_batch(config, size, seconds)) > size:
            size = full
            seconds, stages = _one(part, repeats, _batches([full], count, by_shape), link)
        return size, seconds, stages

    from sdxl.bench.loadgen import WarmUp

    if len(parts) == 1:  # in this thread, where the model stays
        found = [one(parts[0])]
    else:
        with ThreadPoolExecutor(len(parts)) as threads:
            found = list(threads.map(one, parts))
    rate = sum(size / seconds for size, seconds, _ in found)
    warm = WarmUp(max(seconds for _, seconds, _ in found), rate, tuple(sizes), by_shape)
    return warm, found[0][2] if len(parts) == 1 else {}


def _one(
    part: Any, repeats: int, batches: list[list[int]], link: isolate.Link
) -> tuple[float, dict[str, float]]:
    """Draw every batch, the last one `repeats` times; its fastest seconds, and its stages'."""
    for done, batch in enumerate(batches[:-1], 1):
        part.generate(batch)
        link.report({"phase": "warming up", "done": done})
    timed: list[tuple[float, dict[str, float]]] = []
    for done in range(len(batches), len(batches) + repeats):
        with stage_clock.watching(part) as watched:
            began = time.perf_counter()
            part.generate(batches[-1])
            seconds = time.perf_counter() - began
        timed.append((seconds, stage_clock.milliseconds(watched, seconds)))
        link.report({"phase": "warming up", "done": done})
    return min(timed, key=lambda each: each[0])


def _batches(sizes: list[int], count: int, by_shape: bool) -> list[list[int]]:
    """Indices of one batch of each size, the largest last.

    Where sizes are prepared the largest comes first too: 8-bit layers choose their kernels at
    the first batch, and graphs of smaller ones find room in the memory of larger ones.
    """
    order = [*sorted(sizes, reverse=True), sizes[-1]] if by_shape else sizes
    return [[place % count for place in range(size)] for size in order]
