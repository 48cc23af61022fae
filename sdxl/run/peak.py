"""`find_peak=true`: the highest Server rate that LoadGen calls VALID, by bisection.

Every probe is a whole LoadGen test in a process of its own, with its own record. Finished probes
are noted in the store: the same command, typed again after whatever end, goes on from there.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdxl.config.schema import Config, Rerun, Scenario, Server
from sdxl.core import json_file, records, store
from sdxl.core.errors import SdxlError
from sdxl.core.record import Peak, Record
from sdxl.run import identity, ledger

TOLERANCE = 0.01
"""The search ends when the lowest rate that fails is this close above the highest that holds."""
STEP = 1.25
"""Factor between probes until the first fails."""
HALVINGS = 10
"""How often the rate is halved in search of one that holds."""

Once = Callable[[Config, Path, Record], None]
Probe = dict[str, Any]
"""`qps`, `valid`, `reason`, `p99_ms`, `completed_per_second`, `record` (its path)."""


def search(config: Config, folder: Path, record: Record, once: Once) -> None:
    """Fill `record` with the fastest VALID probe; `performance.peak` lists all of them.

    `once` measures one configuration. Raises `SdxlError` if no rate holds.
    """
    state = store.root() / "peaks" / ledger.place() / f"{record.key}.json"
    probes = [] if config.rerun is Rerun.all else _resume(state)
    number = _next_number(folder)
    while True:
        try:
            rate = propose(probes) if probes else _first(config.scenario)
        except SdxlError:
            state.unlink(missing_ok=True)  # the same line, typed again, is a new search
            raise
        if rate is None and probes:
            break
        probes.append(_probe(config, rate, folder / f"probe-{number:02d}", once))
        number += 1
        state.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(state, probes)
    state.unlink(missing_ok=True)
    best = max((probe for probe in probes if probe["valid"]), key=lambda probe: probe["qps"])
    _take(Path(best["record"]), folder, record)
    failed = [probe["qps"] for probe in probes if not probe["valid"] and probe["qps"] > best["qps"]]
    record.performance.peak = Peak(best["qps"], min(failed), TOLERANCE, probes)


def propose(probes: list[Probe]) -> float | None:
    """The next rate to try, or None when the peak is known; raises `SdxlError` if there is none.

    A rate that held once holds: a slower one that failed was disturbed. The one that ends the
    search must therefore fail twice, lest one disturbance anywhere bound the peak from above.
    """
    held = max((probe["qps"] for probe in probes if probe["valid"]), default=None)
    if held is None:
        if len(probes) > HALVINGS:
            raise SdxlError(
                "no rate keeps the latency limit",
                f"the slowest, {probes[-1]['qps']:g} queries/s: {probes[-1]['reason']}",
                "a limit that one query alone can keep, and enough queries for early stopping",
                "scenario.target_latency_ms=MORE",
            )
        return _rounded(min(probe["qps"] for probe in probes) / 2)
    failed = min((p["qps"] for p in probes if not p["valid"] and p["qps"] > held), default=None)
    if failed is None:
        return _rounded(held * STEP)
    if failed / held > 1 + TOLERANCE:
        return _rounded(math.sqrt(held * failed))
    return failed if sum(probe["qps"] == failed for probe in probes) < 2 else None


def _first(scenario: Scenario) -> float | None:
    """The user's guess; None leaves it to the warm-up."""
    assert isinstance(scenario, Server)
    return scenario.target_qps


def _probe(config: Config, rate: float | None, folder: Path, once: Once) -> Probe:
    """Measure one rate; its record is written in `folder`."""
    probe = copy.deepcopy(config)
    probe.find_peak = False
    assert isinstance(probe.scenario, Server)
    probe.scenario.target_qps = rate
    attempt = identity.new(probe)
    once(probe, folder, attempt)
    path = records.write(attempt, folder)
    found = attempt.performance
    return {
        "qps": found.settings["server_target_qps"],
        "valid": attempt.status == "ok",
        "reason": attempt.reason,
        "p99_ms": found.latency_ms["p99"],
        "completed_per_second": found.value,
        "record": str(path),
    }


def _resume(state: Path) -> list[Probe]:
    """Probes of an interrupted search whose records are still there."""
    try:
        found = json_file.read(state)
        return [probe for probe in found if _is_probe(probe) and Path(probe["record"]).is_file()]
    except (OSError, ValueError, TypeError):
        return []


def _is_probe(value: Any) -> bool:
    """Whether a noted probe is whole; one that is not is measured again."""
    if not isinstance(value, dict):
        return False
    rate, record = value.get("qps"), value.get("record")
    known = isinstance(rate, int | float) and 0 < rate < math.inf and isinstance(record, str)
    return known and type(value.get("valid")) is bool


def _take(path: Path, folder: Path, record: Record) -> None:
    """The fastest probe's figures and files as those of the whole search."""
    own = {name: getattr(record, name) for name in ("key", "config", "command", "id", "started")}
    vars(record).update(vars(records.read(path)))
    vars(record).update(own)
    for name in ("images", "loadgen"):
        if (path.parent / name).is_dir():
            shutil.copytree(path.parent / name, folder / name, dirs_exist_ok=True)
    for name in ("images.png", "worker.log", "prompts.json"):
        if (path.parent / name).is_file():
            shutil.copyfile(path.parent / name, folder / name)


def _next_number(folder: Path) -> int:
    return len(list(folder.glob("probe-*")))


def _rounded(rate: float) -> float:
    """Four significant digits, so that a rate can be typed."""
    return float(f"{rate:.4g}")
