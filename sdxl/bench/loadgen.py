"""MLPerf LoadGen: the only file that imports it. One test per process: it reads its rules once.

Facts about its traps: mlcommons/inference loadgen, python_api.cc and test_settings_internal.cc.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlperf_loadgen as lg
import numpy as np

from sdxl.bench.batching import Batching
from sdxl.bench.mlperf import compliance
from sdxl.bench.mlperf.rounds import rules_of
from sdxl.bench.sut import Begin, Generate, Sut
from sdxl.config import schema
from sdxl.config.derive import batch_size
from sdxl.config.schema import Mode
from sdxl.core.types import Sample

HEADROOM = 1.2
"""LoadGen plans for this multiple of the warm-up's rate, so that a faster run stays long enough."""


@dataclass(frozen=True)
class WarmUp:
    """What the warm-up measured: seconds of one query, and images/s of full batches.

    sizes: the batch sizes that it drew; by_shape: to these, batches of other sizes are padded.
    """

    query_s: float
    images_per_second: float
    sizes: tuple[int, ...] = ()
    by_shape: bool = False


def test_settings(config: schema.Config, prompts: int, warm_up: WarmUp) -> Any:
    """LoadGen's TestSettings for a configuration; hints left open come from the warm-up."""
    scenario = config.scenario
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, scenario.name)
    settings.mode = (
        lg.TestMode.AccuracyOnly if config.mode is Mode.accuracy else lg.TestMode.PerformanceOnly
    )
    settings.min_duration_ms = scenario.min_duration_ms
    settings.min_query_count = scenario.min_query_count or prompts
    settings.max_query_count = 0
    settings.max_duration_ms = 0
    seeds = rules_of(config.round, config.seed).seeds
    settings.qsl_rng_seed = seeds.qsl
    settings.sample_index_rng_seed = seeds.sample_index
    settings.schedule_rng_seed = seeds.schedule
    if isinstance(scenario, schema.Offline):
        settings.offline_expected_qps = scenario.target_qps or HEADROOM * warm_up.images_per_second
    elif isinstance(scenario, schema.Server):
        settings.server_target_qps = (
            scenario.target_qps or scenario.warmup_qps_share * warm_up.images_per_second
        )
        settings.server_target_latency_ns = round(scenario.target_latency_ms * 1e6)
        settings.server_target_latency_percentile = scenario.target_latency_percentile
        settings.server_coalesce_queries = True
    elif isinstance(scenario, schema.SingleStream):
        settings.single_stream_expected_latency_ns = _expected_ns(scenario, warm_up)
        settings.single_stream_target_latency_percentile = scenario.target_latency_percentile
    else:
        assert isinstance(scenario, schema.MultiStream)
        settings.multi_stream_samples_per_query = scenario.samples_per_query
        settings.multi_stream_expected_latency_ns = _expected_ns(scenario, warm_up)
        settings.multi_stream_target_latency_percentile = scenario.target_latency_percentile
    return settings


@dataclass
class Test:
    """One LoadGen test of a configuration; its logs land in `log_dir`.

    Each of `lanes` generates batches in a thread of its own; a single one keeps this thread.
    `on_images` is called after LoadGen has the answers. `on_error` must not return into a test
    that nobody completes: it ends the process. Batches are padded to the next of `sizes`.
    `begin` lets the only lane denoise while it decodes.
    """

    config: schema.Config
    settings: Any
    prompts: int
    lanes: Sequence[Generate]
    on_images: Callable[[list[Sample], np.ndarray], None]
    on_error: Callable[[BaseException], None]
    log_dir: Path
    sizes: Sequence[int] = ()
    begin: Begin | None = None

    def run(self, on_start: Callable[[Sut], None] = lambda _: None) -> Sut:
        """Run it to its end; returns the SUT with its counts, which `on_start` sees before."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        audit = compliance.prepare(self.config, self.settings, self.log_dir)
        sut = self.build()
        on_start(sut)
        if sut.inline:
            self.drive(sut, audit)
        else:
            self.join(sut, audit)
        return sut

    def build(self) -> Sut:
        """The system under test, with the limits of the scenario."""
        scenario = self.config.scenario
        single = scenario.name in ("SingleStream", "MultiStream") and len(self.lanes) == 1
        server = isinstance(scenario, schema.Server) and self.config.mode is Mode.performance
        return Sut(
            self.lanes[0],
            self._complete,
            self.on_error,
            Batching(
                batch_size(self.config),
                single,
                max_wait_s=getattr(scenario, "max_wait_ms", 0.0) / 1e3,
                limit_s=getattr(scenario, "target_latency_ms", 0.0) / 1e3 if server else None,
                sizes=self.sizes,
            ),
            self.begin,
        )

    def drive(self, sut: Sut, audit: Path) -> None:
        """Let LoadGen query the SUT until it has enough.

        An audit.config in the working directory would silently change the test: `audit` is ours.
        """

        def issue(query: Sequence[Any]) -> None:
            sut.issue([Sample(sample.id, sample.index) for sample in query])

        count = min(self.config.scenario.performance_sample_count or self.prompts, self.prompts)
        handle = lg.ConstructSUT(issue, _nothing)
        library = lg.ConstructQSL(self.prompts, count, _nothing, _nothing)
        logs = _log_settings(self.log_dir)
        lg.StartTestWithLogSettings(handle, library, self.settings, logs, str(audit))
        sut.close()
        lg.DestroyQSL(library)
        lg.DestroySUT(handle)

    def join(self, sut: Sut, audit: Path) -> None:
        """Serve in this thread while LoadGen drives from another.

        The model stays in this thread: a second thread with torch in it means a second OpenMP
        team, and with more threads than cores its barriers sleep. On two cores that costs the
        bundled model a third of its speed.
        """
        threads = [threading.Thread(target=self.drive, args=(sut, audit), name="loadgen")]
        threads += [
            threading.Thread(target=sut.serve, args=(lane,), name=f"lane-{number}")
            for number, lane in enumerate(self.lanes[1:], 1)
        ]
        for thread in threads:
            thread.daemon = True
            thread.start()
        sut.serve(self.lanes[0])
        for thread in threads:
            thread.join()

    def _complete(self, batch: list[Sample], images: np.ndarray) -> None:
        digests = self.config.mode is Mode.accuracy and not self.config.submission
        images = np.ascontiguousarray(images)
        answers = _digests(images) if digests else images
        start, size = answers.ctypes.data, answers.nbytes // len(batch)
        lg.QuerySamplesComplete(
            [
                lg.QuerySampleResponse(sample.id, start + place * size, size)
                for place, sample in enumerate(batch)
            ]
        )
        self.on_images(batch, images)


def _nothing(*_: Any) -> None:
    """Prompts are tokenized before the test; there is nothing to load or flush."""


def _log_settings(folder: Path) -> Any:
    output = lg.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    logs = lg.LogSettings()
    logs.log_output = output
    logs.enable_trace = False
    return logs


def _digests(images: np.ndarray) -> np.ndarray:
    """SHA-256 of each picture's pixels, uint8 (B, 32): 64 characters in the log, not 6 million."""
    found = [hashlib.sha256(image).digest() for image in images]
    return np.frombuffer(b"".join(found), np.uint8).reshape(len(images), -1)


def describe(settings: Any) -> dict[str, Any]:
    """The settings as LoadGen holds them, for the record."""
    names = (name for name in dir(settings) if not name.startswith("_"))
    values = {name: getattr(settings, name) for name in names}
    simple = {name: v for name, v in values.items() if isinstance(v, bool | int | float | str)}
    return {**simple, "scenario": str(settings.scenario), "mode": str(settings.mode)}


def _expected_ns(scenario: schema.SingleStream | schema.MultiStream, warm_up: WarmUp) -> int:
    if scenario.target_latency_ms:
        return round(scenario.target_latency_ms * 1e6)
    return max(1, round(warm_up.query_s / HEADROOM * 1e9))
