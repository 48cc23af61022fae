"""How long work will take, from records of the same work on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sdxl.config.content_key import keyed, plain
from sdxl.config.schema import Config, LoadCurve, Mode, Shortcut
from sdxl.core import environment, records
from sdxl.core.paths import ROOT
from sdxl.core.record import Record

POINTS = 14
"""Of a load curve, about."""
SAME = ("model", "precision", "quant", "backend", "shortcut")
"""Groups that must agree for a rate to carry over."""


@dataclass(frozen=True)
class Known:
    """An earlier measurement of the same work."""

    rate: float  # images/s
    overhead_s: float  # everything but the measurement
    source: str


def known(config: Config) -> Known | None:
    """The newest measurement of the same model, precision, quantization and backend.

    Server's rate is that of its arrivals: it says nothing of other scenarios.
    """
    settings = plain(config)
    wanted = {name: settings[name] for name in SAME} | {"precision": keyed(config.precision)}
    none = plain(Shortcut("none"))  # what records were that are older than shortcuts
    for record, path in _records():
        served = record.config.get("scenario", {}).get("name") == "Server"
        if served and config.scenario.name != "Server":
            continue
        theirs = {"shortcut": none, **record.config}
        dtypes = theirs.get("precision", {})  # however they were chosen
        theirs["precision"] = {n: v for n, v in dtypes.items() if n in wanted["precision"]}
        if all(theirs.get(name) == wanted[name] for name in SAME):
            rate = record.performance.images_per_second or 0.0
            overhead = _took(record, "total_s") - _took(record, "measure_s")
            return Known(rate, max(0.0, overhead), path)
    return None


def _took(record: Record, part: str) -> float:
    found: object = record.durations.get(part)
    return found if isinstance(found, float) else 0.0


def seconds(config: Config, prompts: int) -> float | None:
    """Seconds of the whole cell, or None without an earlier record."""
    found = known(config)
    if not found:
        return None
    measured = max(_least_once(config, prompts), images(config, prompts) / found.rate)
    return config.repeat * (found.overhead_s + measured)


def least_seconds(config: Config, prompts: int) -> float:
    """The least that LoadGen takes for every repetition."""
    return config.repeat * _least_once(config, prompts)


def _least_once(config: Config, prompts: int) -> float:
    """LoadGen's own minimum: its duration, and with Server the arrivals of the queries."""
    accuracy = config.mode is Mode.accuracy  # which ends with the last prompt
    least = 0.0 if accuracy else config.scenario.min_duration_ms / 1e3
    qps = getattr(config.scenario, "target_qps", None)
    if isinstance(config.scenario, LoadCurve):
        least *= POINTS
    if config.scenario.name == "Server" and qps:
        least = max(least, images(config, prompts) / qps)
    return least


def images(config: Config, prompts: int) -> int:
    """The fewest images LoadGen will ask for."""
    if config.mode is Mode.accuracy:
        return prompts
    queries = config.scenario.min_query_count or prompts
    if isinstance(config.scenario, LoadCurve):
        return POINTS * queries
    return queries * getattr(config.scenario, "samples_per_query", 1)


@cache
def _records() -> list[tuple[Record, str]]:
    """Usable records of this processor under multirun/, newest first."""
    found = []
    here = environment.describe()
    paths = (ROOT / "multirun").glob("*/**/record.json")
    for path in sorted(paths, key=_age)[:200]:
        try:
            record = records.read(path)
        except (OSError, ValueError):
            continue
        place = record.environment
        same = place.cpu == here["cpu"] and place.instructions in (None, here["instructions"])
        if same and (record.performance.images_per_second or 0) > 0:
            found.append((record, str(path.relative_to(ROOT))))
    return found


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0
