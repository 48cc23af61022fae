"""The generators of a run: one in this process, or one in each worker of a pool, warmed up."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sdxl import isolate, schema, stage_clock
from sdxl.bench.pool import Pool
from sdxl.bench.sut import batch_size
from sdxl.config import backend_modules
from sdxl.types import Generator, Prompt


def open_all(
    config: schema.Config, artifacts: dict[str, Path], chosen: list[Prompt]
) -> Generator | Pool:
    """The generator in this process, or a pool of workers that each open one."""
    backend = config.backend
    if backend.devices is None:
        return open_generator(config, artifacts, chosen)
    torch_needed = backend_modules()[backend.name].NEEDS_TORCH
    scenario, model = config.scenario, config.model
    return Pool(
        _open_in_worker,
        (config, artifacts, chosen),
        backend.devices,
        batch_size(config) * model.height * model.width * 3,
        preload=torch_needed and not model.diffusers_src,
        restarts=backend.restarts,
        startup_s=scenario.startup_s,
        silence_s=scenario.startup_s,
        warm=[range(size) for size in _warm_up_sizes(config, len(chosen))],
    )


def _open_in_worker(
    config: schema.Config, artifacts: dict[str, Path], chosen: list[Prompt]
) -> Generator:
    if config.model.diffusers_src:
        use_diffusers(config.model.diffusers_src)
    return open_generator(config, artifacts, chosen)


def open_generator(
    config: schema.Config, artifacts: dict[str, Path], chosen: list[Prompt]
) -> Generator:
    """The backend's generator, or a sampler on its stages."""
    backend: Any = backend_modules()[config.backend.name]
    if not backend.NEEDS_TORCH:
        return backend.open(config)
    from sdxl.model import open_source
    from sdxl.sampler import Sampler

    source = open_source(config.model, config.seed)
    return Sampler(backend.open(config, artifacts), source, config, chosen)


def use_diffusers(path: str) -> None:
    """Import diffusers from a checkout; must run before anything imports it."""
    from sdxl.errors import UserError

    root = Path(path).expanduser().resolve()
    source = next(
        (p for p in (root / "src", root) if (p / "diffusers/__init__.py").is_file()), None
    )
    if source is None:
        raise UserError(
            "`model.diffusers_src` is no diffusers checkout", path, "a folder with src/diffusers/"
        )
    assert "diffusers" not in sys.modules, "diffusers was imported before its checkout was chosen"
    sys.path.insert(0, str(source))


def warm_up(
    parts: Sequence[Any], config: schema.Config, count: int, link: isolate.Link
) -> tuple[Any, dict[str, float]]:
    """Warm up the generator, or all lanes of a pool at the same time, whose rates add up.

    Returns the rates, and the stages' milliseconds in the fastest full batch (of one generator).
    """
    from sdxl.bench.loadgen import WarmUp

    if len(parts) == 1:
        return _one(parts[0], config, count, link)
    with ThreadPoolExecutor(len(parts)) as threads:
        found = list(threads.map(lambda part: _one(part, config, count, link)[0], parts))
    rate = sum(each.images_per_second for each in found)
    return WarmUp(max(each.query_s for each in found), rate), {}


def _one(
    part: Any, config: schema.Config, count: int, link: isolate.Link
) -> tuple[Any, dict[str, float]]:
    """Run every batch size that the test will see; the last full batches are timed."""
    from sdxl.bench.loadgen import WarmUp

    *others, size = _warm_up_sizes(config, count)
    for other in others:
        part.generate(list(range(other)))
    timed: list[tuple[float, dict[str, float]]] = []
    for number in range(config.scenario.warmup_batches):
        with stage_clock.watching(part) as watched:
            began = time.perf_counter()
            part.generate(list(range(size)))
            seconds = time.perf_counter() - began
        timed.append((seconds, stage_clock.milliseconds(watched, seconds)))
        link.report({"phase": "warming up", "done": number + 1})
    fastest, stage_ms = min(timed, key=lambda each: each[0])
    return WarmUp(query_s=fastest, images_per_second=size / fastest), stage_ms


def _warm_up_sizes(config: schema.Config, count: int) -> list[int]:
    """Every batch size that the test of `count` prompts will surely see, the largest last."""
    size = min(batch_size(config), count)
    return sorted({1 if config.scenario.name == "Server" else count % size or size, size})
