"""Inside the measuring process: load, warm up, let LoadGen run, keep and score the pictures."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdxl.bench import generators, loadgen, parallel_region
from sdxl.bench.keep import Keeper
from sdxl.bench.pool import Pool
from sdxl.config import graphs, schema
from sdxl.config.derive import batch_size
from sdxl.config.plugins import backend_of
from sdxl.config.schema import Mode
from sdxl.core import environment, gpu, isolate
from sdxl.core.types import Sample
from sdxl.model import checkout, prompts
from sdxl.quality import reference
from sdxl.quality.scoring import Scoring
from sdxl.run.load_curve import LoadCurve
from sdxl.run.reporter import Reporter, expected_samples, stall_limit_s
from sdxl.run.result import WorkerResult

if TYPE_CHECKING:
    from sdxl.model.cost import Cost

BINS = 40
"""Of the latency histogram in a record."""


def measure(
    link: isolate.Link, config: schema.Config, artifacts: dict[str, Path], out_dir: Path,
    reference: Sequence[str] = (),
) -> WorkerResult:  # fmt: skip
    """Run one test; pictures, logs and profile land in `out_dir`.

    `reference`: folders of the pictures to compare with.
    """
    session = Session(link, config, out_dir, reference)
    session.load(artifacts)
    session.warm_up()
    session.measure()
    session.keep()
    session.profile_stages()
    session.close()
    session.score()
    return session.result()


class Session:
    """The stages of one measurement, in the order of `measure`."""

    def __init__(
        self, link: isolate.Link, config: schema.Config, out_dir: Path, reference: Sequence[str]
    ) -> None:
        self.link, self.config, self.out_dir = link, config, out_dir
        self.reference = reference
        self.durations: dict[str, float] = {}
        self.profile: dict[str, Any] = {}
        self.scores: dict[str, Any] = {}
        self.beside: dict[str, Any] = {}
        self.curve: LoadCurve | None = None
        self.sut: Any = None  # with counts and latencies
        self.host = parallel_region.Around()

    def load(self, artifacts: dict[str, Path]) -> None:
        """Open the prompts and the generator, or a pool of them."""
        self.link.report({"phase": "loading"})
        config, self.artifacts = self.config, artifacts
        with self._timed("load_s"):
            checkout.use(config.model)
            self.prompts = prompts.load(config.dataset, config.limit, config.seed)
            self.generator = generators.open_all(config, artifacts, self.prompts)
        self.pool = self.generator if isinstance(self.generator, Pool) else None
        self.parts = getattr(self.generator, "lanes", [self.generator])

    def warm_up(self) -> None:
        """Draw a few batches; what LoadGen is to expect follows from their speed."""
        self.link.report({"phase": "warming up"})
        count, facts = len(self.prompts), self.generator.describe()
        with self._timed("warm_up_s"):
            self.warm, self.stage_ms = generators.warm_up(
                self.parts, self.config, count, self.link, facts
            )
        self.settings = None
        if not isinstance(self.config.scenario, schema.LoadCurve):
            self.settings = loadgen.test_settings(self.config, count, self.warm)
        keep = self.config.quality.keep_images or schema.KEEP_IMAGES
        accuracy = self.config.mode is Mode.accuracy
        self.keeper = Keeper(self.out_dir / "images", self.prompts, keep, accuracy)
        self.scoring = Scoring(self.config, self.prompts, self._reference())
        self.scoring.begin()

    def measure(self) -> None:
        """Run LoadGen's test, or the load curve, the parent watching."""
        if isinstance(self.config.scenario, schema.LoadCurve):
            self.curve = LoadCurve(self, self.config.scenario)
            self.link.report({"phase": "measuring", isolate.LIMIT: self._limit_s()})
            with self.host, self._timed("measure_s"):
                self.curve.run()
            self.sut = self.curve
            return
        expected = len(self.prompts)
        if self.config.mode is Mode.performance:
            expected = expected_samples(self.settings, self.config.scenario)
        reporter = Reporter(self.link.report, expected, self.pool)
        test = self._test()
        self.link.report({"phase": "measuring", isolate.LIMIT: self._limit_s()})
        with self.host, self._timed("measure_s"):
            self.sut = test.run(reporter.start)
            reporter.stop()

    def keep(self) -> None:
        """Write the pictures; then note facts and memory, which profiling would change."""
        limit_s = self.config.scenario.startup_s
        self.link.report({"phase": "writing pictures", isolate.LIMIT: limit_s})
        with self._timed("pictures_s"):
            self.images = self.keeper.finish(self.generator)
        self.facts = self.generator.describe()
        self.memory = memory()

    def profile_stages(self) -> None:
        """With `profile=true`: one more batch under the profiler."""
        if not self.config.profile:
            return
        from sdxl.bench import profile

        self.link.report({"phase": "profiling"})
        size = min(batch_size(self.config), len(self.prompts))
        with self._timed("profile_s"):
            self.profile = profile.run(self.generator, size, self.out_dir)

    def close(self) -> None:
        """Note what was in use, then give it back: scoring needs the memory."""
        drawn = backend_of(self.config).needs_torch  # else a server may have imported it for others
        self.environment = {
            "accelerators": environment.accelerators(),
            gpu.VARIABLE.lower(): os.environ.get(gpu.VARIABLE),
            "diffusers": environment.diffusers_in_use() if drawn else {},
            **({"parallel_region": self.host.facts} if self.host.facts else {}),
        }
        self.generator.close()
        if self.pool:
            self.memory["peak_rss_bytes"] += self.pool.peak_rss_bytes

    def score(self) -> None:
        """Score the pictures, where that is wanted."""
        if not self.scoring.wanted:
            return
        with self._timed("scoring_s"):
            self.scores = self.scoring.finish(
                lambda done: self.link.report({"phase": "scoring", "done": done})
            )
            self.beside = self.scoring.beside_reference(self.out_dir)

    def result(self) -> WorkerResult:
        """All that the parent needs for the record."""
        counted = _counted(self.config)
        image_flop = counted.image_flop if counted else 0
        return WorkerResult(
            counts=vars(self.sut.counts),
            latency_histogram=_histogram(self.sut.latencies_s),
            warm_up=vars(self.warm),
            stage_ms=self.stage_ms,
            settings=loadgen.describe(self.settings) if self.settings else {},
            curve=self.curve.facts if self.curve else {},
            images=self.images,
            scores=self.scores,
            beside=self.beside,
            generator=self.facts,
            profile=self.profile,
            environment=self.environment,
            image_flop=image_flop,
            roofline=_roofline(self.config, self.facts, counted, self._rate()),
            memory=self.memory,
            durations=self.durations,
            prompts=len(self.prompts),
            batch_size=batch_size(self.config),
            work=counted.describe() if counted else {},
        )

    def _rate(self) -> float:
        """Images per second by the harness's own clock."""
        return self.sut.counts.done / max(1e-9, self.durations["measure_s"])

    def taker(self) -> Callable[[list[Sample], Any], None]:
        """What is done with pictures that were answered, from whichever thread."""
        taking = threading.Lock()  # lanes call from threads of their own

        def on_images(batch: list[Sample], made: Any) -> None:
            with taking:
                self.keeper.take(batch, made)
                self.scoring.take(batch, made)

        return on_images

    def _test(self) -> loadgen.Test:
        return loadgen.Test(
            self.config,
            self.settings,
            len(self.prompts),
            [part.generate for part in self.parts],
            self.taker(),
            self.link.fail,  # LoadGen would wait for the lost samples
            self.out_dir / "loadgen",
            self.warm.sizes if self.warm.by_shape else (),
            getattr(self.generator, "begin", None),
        )

    def _reference(self) -> dict[int, np.ndarray]:
        """The reference's pictures by position; none without a reference."""
        if not self.reference:
            return {}
        from sdxl.quality import reference_pictures

        chosen = reference.chosen(self.config, self.prompts)
        return reference_pictures.read(self.reference, chosen)

    def _limit_s(self) -> float:
        """How long the measurement may be silent; a pool notices a silent worker by itself."""
        scenario = self.config.scenario
        limit_s = stall_limit_s(scenario, self.settings, self.warm.query_s)
        if not self.pool:
            return limit_s
        self.pool.silence_s = limit_s
        return limit_s + scenario.startup_s

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.durations[name] = round(time.perf_counter() - began, 3)


def _histogram(latencies_s: Sequence[float]) -> dict[str, list[float]]:
    """Latencies in equal bins: `edges_ms` (one more than bins) and `counts`."""
    counts, edges = np.histogram(np.asarray(latencies_s) * 1e3, bins=BINS)
    return {"edges_ms": edges.round(6).tolist(), "counts": counts.tolist()}


def _roofline(
    config: schema.Config, facts: dict[str, Any], counted: Cost | None, rate: float
) -> dict[str, Any]:
    """The limit of this device, where one is known; an accuracy run has no speed to compare."""
    name = facts.get("device_name")
    if not name or config.mode is Mode.accuracy or counted is None:
        return {}
    from sdxl.bench import roofline

    on_gpu = str(facts.get("device")).startswith("cuda")
    size, config = batch_size(config), _as_computed(config, facts)
    # On a GPU the limit is that of the format asked for; processors are told what really ran.
    simulated = not on_gpu and bool(facts.get("simulated"))
    work = roofline.work_of(config, size, counted, simulated)
    return roofline.facts(config, name, size, counted.image_flop, on_gpu, rate, work)


def _as_computed(config: schema.Config, facts: dict[str, Any]) -> schema.Config:
    """With the formats of the arithmetic, where a backend says that its files have others."""
    if not (found := facts.get("arithmetic")):
        return config
    unet, *_ = graphs.unets(config.shortcut)
    names = {"text_encoder": "text_encoder", "unet": unet, "vae": "vae_decoder"}
    wanted: dict[str, Any] = {name: schema.DType(found[graph]) for name, graph in names.items()}
    precision = dataclasses.replace(config.precision, **wanted)
    return dataclasses.replace(config, precision=precision)


def _counted(config: schema.Config) -> Cost | None:
    """Operations of an image, counted on shapes; None where there is no model."""
    if not backend_of(config).needs_torch:
        return None
    from sdxl.model import cost

    return cost.count(config, 1)


def memory() -> dict[str, int]:
    """Peak resident memory of this process and, with CUDA, of the allocator; in bytes."""
    peak = {"peak_rss_bytes": environment.peak_rss_bytes()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["cuda_peak_bytes"] = torch.cuda.max_memory_allocated()
    return peak
