"""A load curve inside the measuring process: its points, one after the other, and their summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from sdxl.bench import arrivals, generators, load
from sdxl.bench.batching import Batching
from sdxl.bench.pool import Pool
from sdxl.bench.sut import Sut
from sdxl.config import mix, schema
from sdxl.config.derive import batch_size
from sdxl.core import isolate
from sdxl.core.store import resolve
from sdxl.core.types import Prompt, Sample
from sdxl.run.reporter import Reporter


class Session(Protocol):
    """What of the measuring process a curve needs."""

    config: schema.Config
    link: isolate.Link
    prompts: list[Prompt]
    warm: Any
    generator: Any
    parts: Sequence[Any]
    pool: Pool | None
    artifacts: dict[str, Path]

    def taker(self) -> Callable[[list[Sample], Any], None]:
        """What is done with pictures that were answered."""


class LoadCurve:
    """The curve of a session's generator. Counts and latencies are those of all its points."""

    def __init__(self, session: Session, scenario: schema.LoadCurve) -> None:
        self.session, self.scenario = session, scenario
        self.points: list[load.Point] = []
        config = session.config
        seconds = scenario.min_duration_ms / 1e3
        least = scenario.min_query_count or len(session.prompts)
        limit, share = scenario.target_latency_ms, scenario.target_latency_percentile
        self.load = load.Load(seconds, least, limit, share, config.seed)
        sizes = session.warm.sizes if session.warm.by_shape else ()
        most = min(scenario.performance_sample_count or len(session.prompts), len(session.prompts))
        kinds = mix.kinds(scenario.mix or [])
        self.mixed = Mixed(session, kinds) if kinds else None
        self.system = load.System(
            [self.mixed.generate] if self.mixed else [part.generate for part in session.parts],
            Batching(
                batch_size(config),
                max_wait_s=scenario.max_wait_ms / 1e3,
                limit_s=limit / 1e3,
                sizes=() if self.mixed else sizes,
            ),
            most,
            self.mixed.keeping(session.taker()) if self.mixed else session.taker(),
            session.link.fail,
            self._watch,
            kinds=[kind.weight for kind in kinds],
        )
        self.counts, self.latencies_s = self.system.counts, self.system.latencies_s

    def run(self) -> None:
        """Measure every point, then give back what other kinds of requests needed."""
        scenario = self.scenario
        trace = arrivals.read_trace(resolve(scenario.trace)) if scenario.trace else None
        try:
            self.points += load.ladder(
                self.system, self.load, scenario.rates, scenario.concurrencies, trace
            )
        finally:
            if self.mixed:
                self.mixed.close()

    @property
    def facts(self) -> dict[str, Any]:
        """For the record."""
        return load.summary(self.points, self.load)

    def _watch(self, sut: Sut) -> Callable[[], None]:
        """Signs of life of one point; returns what ends them."""
        session = self.session
        reporter = Reporter(session.link.report, self.load.least, session.pool, rests=True)
        reporter.start(sut)
        return reporter.stop


class Mixed:
    """A generator for each kind of request. A batch is drawn kind by kind, and answered as one.

    Index i is prompt i % prompts, of kind i // prompts.
    """

    def __init__(self, session: Session, kinds: Sequence[mix.Kind]) -> None:
        most = session.config.scenario.performance_sample_count or len(session.prompts)
        self.prompts = min(most, len(session.prompts))
        self.own = -1  # which kind is that of the session's own settings
        self.generators: list[Any] = []
        for number, kind in enumerate(kinds):
            chosen = generators.of_kind(session.config, kind)
            if chosen == session.config:
                self.own = number
                self.generators.append(session.generator)
            else:
                made = generators.open_generator(chosen, session.artifacts, session.prompts)
                made.generate([0])  # nothing is drawn for the first time while it is measured
                self.generators.append(made)

    def generate(self, indices: Sequence[int]) -> Any:
        """Pictures, each of its own size, in the order of their indices."""
        found: dict[int, Any] = {}
        for kind, generator in enumerate(self.generators):
            mine = [place for place, index in enumerate(indices) if index // self.prompts == kind]
            if mine:
                made = generator.generate([indices[place] % self.prompts for place in mine])
                found |= dict(zip(mine, made, strict=True))
        return [found[place] for place in range(len(indices))]

    def close(self) -> None:
        """Give back the generators that are not the session's own."""
        for kind, generator in enumerate(self.generators):
            if kind != self.own:
                generator.close()

    def keeping(
        self, take: Callable[[list[Sample], Any], None]
    ) -> Callable[[list[Sample], Any], None]:
        """Hand on the pictures of the session's own size and steps; others are nobody's."""

        def own(batch: list[Sample], images: Any) -> None:
            first = self.own * self.prompts
            mine = [
                place
                for place, sample in enumerate(batch)
                if self.own >= 0 and first <= sample.index < first + self.prompts
            ]
            if mine:
                chosen = [Sample(batch[n].id, batch[n].index - first) for n in mine]
                take(chosen, [images[n] for n in mine])

        return own
