"""The generators of a run: one in this process, or one in each worker of a pool, warmed up."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sdxl import isolate, schema
from sdxl.bench.pool import Pool
from sdxl.bench.sut import Generate, batch_size
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
        silence_s=scenario.stall_s,
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
    lanes: Sequence[Generate], config: schema.Config, count: int, link: isolate.Link
) -> Any:
    """Warm every lane up, all at the same time; their rates add up."""
    from sdxl.bench.loadgen import WarmUp

    if len(lanes) == 1:
        return _one(lanes[0], config, count, link)
    with ThreadPoolExecutor(len(lanes)) as threads:
        found = list(threads.map(lambda lane: _one(lane, config, count, link), lanes))
    rate = sum(each.images_per_second for each in found)
    return WarmUp(max(each.query_s for each in found), rate)


def _one(generate: Generate, config: schema.Config, count: int, link: isolate.Link) -> Any:
    """Run every batch size that the test will see; the last full batches are timed."""
    from sdxl.bench.loadgen import WarmUp

    size = min(batch_size(config), count)
    others = {1} if config.scenario.name == "Server" else {count % size or size}
    for other in sorted(others - {size}):
        generate(list(range(other)))
    seconds = []
    for number in range(config.scenario.warmup_batches):
        began = time.perf_counter()
        generate(list(range(size)))
        seconds.append(time.perf_counter() - began)
        link.report({"phase": "warming up", "done": number + 1})
    return WarmUp(query_s=min(seconds), images_per_second=size / min(seconds))
