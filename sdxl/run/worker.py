"""Inside the measuring process: load, warm up, let LoadGen run, keep the pictures."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdxl.bench import generators
from sdxl.bench.pool import Pool
from sdxl.bench.sut import Sut
from sdxl.config import schema
from sdxl.config.derive import batch_size
from sdxl.config.plugins import backend_of
from sdxl.config.schema import Mode
from sdxl.core import environment, gpu, isolate
from sdxl.core.types import Sample
from sdxl.model import prompts

REPORT_EVERY_S = 0.25
BINS = 40
"""Of the latency histogram in a record."""


def measure(
    link: isolate.Link, config: schema.Config, artifacts: dict[str, Path], out_dir: Path
) -> dict[str, Any]:
    """Run one test; returns counts, settings, kept pictures, facts and durations."""
    from sdxl.bench import loadgen
    from sdxl.bench.keep import Keeper
    from sdxl.quality.scoring import Scoring

    durations: dict[str, float] = {}
    link.report({"phase": "loading"})
    with _timed(durations, "load_s"):
        if config.model.diffusers_src:
            generators.use_diffusers(config.model.diffusers_src)
        chosen = prompts.load(config.dataset, config.limit, config.seed)
        generator = generators.open_all(config, artifacts, chosen)
    parts = generator.lanes if isinstance(generator, Pool) else [generator]
    lanes = [part.generate for part in parts]
    link.report({"phase": "warming up"})
    with _timed(durations, "warm_up_s"):
        warm, stage_ms = generators.warm_up(parts, config, len(chosen), link, generator.describe())
    settings = loadgen.test_settings(config, len(chosen), warm)
    expected = _expected_samples(settings, config, len(chosen))
    accuracy = config.mode is Mode.accuracy
    keep = config.quality.keep_images or schema.KEEP_IMAGES
    keeper = Keeper(out_dir / "images", chosen, keep, accuracy)
    scoring = Scoring(config, chosen)
    scoring.begin()

    taking = threading.Lock()  # lanes call from threads of their own

    def on_images(batch: list[Sample], made: Any) -> None:
        with taking:
            keeper.take(batch, made)
            scoring.take(batch, made)

    limit_s = _stall_limit(config, settings, warm)
    pool = generator if isinstance(generator, Pool) else None
    if pool:  # it notices a silent worker by itself, and loads another
        pool.silence_s = limit_s
        limit_s += config.scenario.startup_s
    reporter = _Reporter(link, expected, pool)
    link.report({"phase": "measuring", isolate.LIMIT: limit_s})
    with _timed(durations, "measure_s"):
        sut = loadgen.run(
            config,
            settings,
            len(chosen),
            lanes,
            on_images,
            link.fail,  # LoadGen would wait for the lost samples
            out_dir / "loadgen",
            reporter.start,
            warm.sizes if warm.by_shape else (),
            getattr(generator, "begin", None),
        )
        reporter.stop()
    link.report({"phase": "writing pictures", isolate.LIMIT: config.scenario.startup_s})
    with _timed(durations, "pictures_s"):
        pictures = keeper.finish(generator)
    facts = generator.describe()
    memory = _memory()
    profile: dict[str, Any] = {}
    if config.profile:
        from sdxl.bench import profile as profiling

        link.report({"phase": "profiling"})
        with _timed(durations, "profile_s"):
            profile = profiling.run(generator, min(batch_size(config), len(chosen)), out_dir)
    seen = {
        "accelerators": environment.accelerators(),
        gpu.VARIABLE.lower(): os.environ.get(gpu.VARIABLE),
        "diffusers": environment.diffusers_in_use(),
    }
    generator.close()
    if pool:
        memory["peak_rss_bytes"] += pool.peak_rss_bytes
    image_flop = _image_flop(config)
    scores: dict[str, Any] = {}
    if scoring.wanted:
        with _timed(durations, "scoring_s"):
            scores = scoring.finish(lambda done: link.report({"phase": "scoring", "done": done}))
    return {
        "counts": vars(sut.counts),
        "latency_histogram": _histogram(sut.latencies_s),
        "warm_up": vars(warm),
        "stage_ms": stage_ms,
        "settings": loadgen.describe(settings),
        "images": pictures,
        "scores": scores,
        "generator": facts,
        "profile": profile,
        "environment": seen,
        "image_flop": image_flop,
        "roofline": _roofline(config, facts, image_flop),
        "memory": memory,
        "durations": durations,
        "prompts": len(chosen),
        "batch_size": batch_size(config),
    }


def _expected_samples(settings: Any, config: schema.Config, count: int) -> int:
    """How many samples LoadGen will probably issue, for the progress bar."""
    if config.mode is Mode.accuracy:
        return count
    seconds = settings.min_duration_ms / 1e3
    if config.scenario.name == "Offline":
        return max(settings.min_query_count, int(1.1 * seconds * settings.offline_expected_qps))
    rates = {
        "Server": settings.server_target_qps,
        "SingleStream": 1e9 / max(1, settings.single_stream_expected_latency_ns),
        "MultiStream": 1e9 / max(1, settings.multi_stream_expected_latency_ns),
    }
    queries = max(settings.min_query_count, int(seconds * rates[config.scenario.name]))
    return queries * getattr(config.scenario, "samples_per_query", 1)


def _stall_limit(config: schema.Config, settings: Any, warm: Any) -> float:
    """`stall_s`, but never less than a few batches on a slow machine, nor than Server's pauses.

    Poisson arrivals leave a pause of 20 mean intervals once in e^20 queries.
    """
    server = config.scenario.name == "Server"
    pause_s = 20 / settings.server_target_qps if server else 0.0
    return max(config.scenario.stall_s, 5 * warm.query_s, pause_s)


class _Reporter:
    """Reports the SUT's counts while LoadGen holds the main thread."""

    def __init__(self, link: isolate.Link, expected: int, pool: Pool | None) -> None:
        self._link, self._expected, self._pool = link, expected, pool
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, sut: Sut) -> None:
        """Begin reporting."""
        self._thread = threading.Thread(target=self._report, args=(sut,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reporting."""
        self._over.set()
        if self._thread:
            self._thread.join()

    def _report(self, sut: Sut) -> None:
        while not self._over.wait(REPORT_EVERY_S):
            self._link.report(
                {
                    "phase": "measuring",
                    "done": sut.counts.done,
                    "issued": sut.counts.issued,
                    "expected": max(self._expected, sut.counts.issued),
                    # A replacement that loads and warms up is a sign of life.
                    "answers": self._pool.answers if self._pool else 0,
                }
            )


def _histogram(latencies_s: Sequence[float]) -> dict[str, list[float]]:
    """Latencies in equal bins: `edges_ms` (one more than bins) and `counts`."""
    import numpy as np

    counts, edges = np.histogram(np.asarray(latencies_s) * 1e3, bins=BINS)
    return {"edges_ms": edges.round(6).tolist(), "counts": counts.tolist()}


def _roofline(config: schema.Config, facts: dict[str, Any], image_flop: int) -> dict[str, Any]:
    """The limit of this device, where one is known; an accuracy run has no speed to compare."""
    name = facts.get("device_name")
    if not name or config.mode is Mode.accuracy:
        return {}
    from sdxl.bench import roofline

    on_gpu = str(facts.get("device")).startswith("cuda")
    return roofline.facts(config, name, batch_size(config), image_flop, on_gpu)


def _image_flop(config: schema.Config) -> int:
    """Operations per image, counted on shapes; 0 where there is no model."""
    if not backend_of(config).needs_torch:
        return 0
    from sdxl.model import cost

    return cost.count(config, 1).image_flop


def _memory() -> dict[str, int]:
    """Peak resident memory of this process and, with CUDA, of the allocator; in bytes."""
    peak = {"peak_rss_bytes": environment.peak_rss_bytes()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["cuda_peak_bytes"] = torch.cuda.max_memory_allocated()
    return peak


@contextmanager
def _timed(durations: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    durations[name] = round(time.perf_counter() - began, 3)
