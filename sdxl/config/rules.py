"""The rules a configuration must keep, beyond its types. No input or output happens here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from sdxl.config import mix, rules_model, rules_quant, rules_shortcut, schema
from sdxl.config.plugins import backend_of
from sdxl.config.ranges import RANGES, SECONDS
from sdxl.config.schema import Compliance, Config, Mode
from sdxl.core.errors import Problem

MLPERF_PROMPTS = 5000
MLPERF_AUDITED_INDEX = 3
"""The prompt that TEST04 sends over and over."""
MOST_SAMPLES = 100_000_000
"""Of one LoadGen test: about 5 GB."""


def problems_of(config: Config) -> list[Problem]:
    """All broken rules of `config`, in the order of its groups."""
    checks: list[Callable[[Config], Iterator[Problem]]] = [
        rules_model.settings,
        rules_model.division,
        rules_quant.problems_of,
        rules_shortcut.problems_of,
        _peak,
        _workers,
        _scenario,
        _load_curve,
        _work,
        _captions,
        _compliance,
        _ignored,
    ]
    return [problem for check in checks for problem in check(config)]


def _peak(c: Config) -> Iterator[Problem]:
    if not c.find_peak:
        return
    if not isinstance(c.scenario, schema.Server) or c.mode is Mode.accuracy or c.compliance:
        yield Problem(
            "`find_peak` would be ignored: only Server's performance has a rate to search",
            f"scenario={c.scenario.name} mode={c.mode.value}",
            "scenario=Server mode=performance",
            "scenario=Server find_peak=true",
        )
    if c.repeat > 1:
        yield Problem(
            "`repeat` would be ignored: the search repeats by itself",
            f"repeat={c.repeat}",
            "repeat=1",
        )


def _workers(c: Config) -> Iterator[Problem]:
    devices = c.backend.devices
    if devices is None:
        if c.backend.restarts != 1:
            yield Problem(
                "`backend.restarts` would be ignored: there is no worker to replace",
                f"backend.restarts={c.backend.restarts}",
                "backend.devices=[0,1], or backend.restarts=1",
            )
        return
    if not devices or len(set(devices)) < len(devices) or min(devices) < 0:
        got = f"[{','.join(map(str, devices))}]"
        yield Problem(
            "`backend.devices` names each device once", got, "numbers from 0, or null",
            "backend.devices=[0,1]",
        )  # fmt: skip
    elif len(devices) > 1 and isinstance(c.scenario, schema.SingleStream):
        yield Problem(
            "all but one of `backend.devices` would be idle: SingleStream sends single samples",
            str(devices),
            "one device, or another scenario",
            f"backend.devices=[{devices[0]}]",
        )


def _scenario(c: Config) -> Iterator[Problem]:
    batch = c.backend.batch_size
    if isinstance(c.scenario, schema.SingleStream) and batch not in (None, 1):
        yield Problem(
            "`backend.batch_size` would be ignored: SingleStream sends one sample at a time",
            str(batch),
            "null or 1",
        )
    if isinstance(c.scenario, schema.MultiStream):
        samples = c.scenario.samples_per_query
        if batch is not None and batch > samples:
            yield Problem(
                "`backend.batch_size` can never be filled: MultiStream's query is smaller",
                str(batch),
                f"at most scenario.samples_per_query={samples}",
            )


def _load_curve(c: Config) -> Iterator[Problem]:
    """A curve is a measurement of speed, and none of MLPerf's."""
    if not isinstance(c.scenario, schema.LoadCurve):
        return
    for word, asked in (
        ("mode=accuracy", c.mode is Mode.accuracy),
        (f"compliance={c.compliance.value if c.compliance else ''}", bool(c.compliance)),
    ):
        if asked:
            yield Problem(
                "scenario=LoadCurve is no scenario of MLPerf's: it measures speed alone", word,
                "one of LoadGen's scenarios", "scenario=Server",
            )  # fmt: skip
    if c.scenario.rates == [] and c.scenario.concurrencies == [] and not c.scenario.trace:
        yield Problem(
            "the load curve has no point", "scenario.rates=[] scenario.concurrencies=[]",
            "numbers, or null for a ladder of its own", "scenario.rates=null",
        )  # fmt: skip
    yield from mix.problems_of(c.scenario)
    backend = backend_of(c)
    elsewhere = bool(c.backend.devices) or backend.remote
    if c.scenario.mix and (elsewhere or backend.loads in ("graphs", "engines")):
        got = f"backend.devices={c.backend.devices}" if c.backend.devices else c.backend.name
        yield Problem(
            "`scenario.mix` needs a model in this process that draws every size", got,
            "backend=torch without devices, or one kind of request", "scenario.mix=null",
        )  # fmt: skip


def _work(c: Config) -> Iterator[Problem]:
    """LoadGen keeps every sample in memory, and draws Server's arrivals beforehand."""
    qps = getattr(c.scenario, "target_qps", None)
    if qps is None or c.mode is Mode.accuracy:
        return
    samples = qps * c.scenario.min_duration_ms / 1e3
    if samples > MOST_SAMPLES:
        yield Problem(
            "the test would have more samples than LoadGen can keep in memory",
            f"{samples:.2g}: scenario.target_qps={qps:g} for {c.scenario.min_duration_ms} ms",
            f"at most {MOST_SAMPLES:.2g}",
        )
    least_s = (c.scenario.min_query_count or 1) / qps
    if isinstance(c.scenario, schema.Server) and least_s > SECONDS.most:
        yield Problem(
            "the queries would take years to arrive",
            f"{c.scenario.min_query_count or 1} at scenario.target_qps={qps:g} a second",
            f"at most {SECONDS.most} s in all",
        )


def _compliance(c: Config) -> Iterator[Problem]:
    """An audit is one performance run under LoadGen's own changes to the settings."""
    if not c.compliance:
        return
    test = f"compliance={c.compliance.value}"
    if c.mode is Mode.accuracy:
        yield Problem(
            "an audit runs in performance mode; it finds or makes the accuracy run it needs",
            f"{test} mode=accuracy",
            "mode=performance",
            test,
        )
    if c.repeat > 1:
        yield Problem(
            "`repeat` would be ignored: an audit is one run", f"repeat={c.repeat}", "repeat=1"
        )
    if c.find_peak:
        yield Problem(
            "an audit runs at one rate, that of the run it is judged against",
            f"{test} find_peak=true",
            "find_peak=false",
            "scenario.target_qps=RATE",
        )
    if c.compliance is Compliance.test04 and c.limit and c.limit <= MLPERF_AUDITED_INDEX:
        yield Problem(
            f"TEST04 sends prompt {MLPERF_AUDITED_INDEX} over and over",
            f"limit={c.limit}",
            f"at least {MLPERF_AUDITED_INDEX + 1} prompts",
        )


def _without_speed(c: Config) -> Iterator[Problem]:
    """Settings of a speed, which accuracy mode has none of."""
    if c.cost.per_hour is not None:
        yield Problem(
            "`cost.per_hour` would be ignored: accuracy mode has no speed",
            f"cost.per_hour={c.cost.per_hour:g}",
            "mode=performance, or cost.per_hour=null",
        )
    if c.repeat > 1:
        yield Problem(
            "`repeat` would be ignored: accuracy mode has no speed to repeat",
            f"repeat={c.repeat}",
            "repeat=1",
        )


def _captions(c: Config) -> Iterator[Problem]:
    """A scene takes milliseconds to describe: a million of them would take hours, silently."""
    most = RANGES["dataset.prompts"].most
    if isinstance(c.dataset, schema.ScenesDataset) and c.dataset.prompts > most:
        yield Problem(
            "`limit` is too large for captions that are made up",
            str(c.limit),
            f"at most {most}, or captions of your own",
            f"limit={most}",
        )


def _ignored(c: Config) -> Iterator[Problem]:
    """Settings that would silently do nothing."""
    if c.dataset.shuffle and c.limit is None:
        yield Problem(
            "`dataset.shuffle` would be ignored: it draws the subset that `limit` asks for",
            "limit=null",
            "a number of prompts",
            "limit=64",
        )
    if not c.tracking.enabled:
        usual = dataclasses.asdict(schema.Tracking(c.tracking.name, enabled=False))
        for name, value in dataclasses.asdict(c.tracking).items():
            if value != usual[name]:
                key = f"`tracking.{name}` would be ignored"
                yield Problem(key, "tracking=off", "tracking=mlflow")
    if c.submission and c.mode is not Mode.accuracy:
        yield Problem(
            "`submission` would be ignored: LoadGen logs pictures in accuracy mode only",
            "mode=performance",
            "mode=accuracy, or submission=false",
            "mode=accuracy submission=true",
        )
    if c.mode is Mode.accuracy:
        if c.quality.keep_images is not None:
            yield Problem(
                "`quality.keep_images` would be ignored: accuracy mode keeps every picture",
                str(c.quality.keep_images),
                "mode=performance, or quality.keep_images=null",
            )
        yield from _without_speed(c)
        for name in ("target_qps", "min_query_count"):
            given = getattr(c.scenario, name, None)
            if name == "min_query_count" and given == MLPERF_PROMPTS:
                continue  # the official settings, which serve both modes
            if isinstance(c.scenario, schema.Offline) and given:
                yield Problem(
                    f"`scenario.{name}` would be ignored: accuracy mode sends every prompt once",
                    "mode=accuracy",
                    "mode=performance",
                )
