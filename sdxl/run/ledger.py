"""Which measurements are already done, here, with this code: what makes a sweep resumable.

One small file per measurement in the store, written after its record. The key says what was
measured; the place says where: code version, processor, GPUs. Nothing is reused across places.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from sdxl.config.content_key import key
from sdxl.config.plugins import backend_of
from sdxl.config.schema import Config, Mode, Rerun
from sdxl.core import gpu, json_file, records, store, terminal
from sdxl.core.environment import PACKAGES, describe, processor
from sdxl.core.paths import PACKAGE
from sdxl.core.record import Record

NO_MEASURE = (
    *("report", "model/download", "run/doctor", "run/plan.py", "run/sweep", "training"),
    *("config/help.py", "core/doors", "__main__.py"),
)
"""Rooms and files, below the package, that cannot change a figure."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that torch's number of threads follows."""


def remember(record: Record, path: Path) -> None:
    """Note a record that is on disk; a later sweep finds it."""
    entries = [_entry(record.key)]
    pair = record.performance.pair_key
    if pair and not record.config["compliance"]:
        entries.append(_paired(pair, record.config["mode"]))
    facts = {"record": str(path), "status": record.status, "started": record.started}
    try:
        for entry in entries:
            entry.parent.mkdir(parents=True, exist_ok=True)
            store.write_json(entry, facts)
    except OSError as error:  # a later sweep measures again: nothing of this record is lost
        _warn("a later sweep will measure this again", error)


def partner(pair: str, mode: Mode) -> tuple[Path, Record] | None:
    """The newest finished record of the same work in the other mode, made here with this code."""
    try:
        path = Path(json_file.read(_paired(pair, mode.value))["record"])
        return path, records.read(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def recall(wanted: str, policy: Rerun, since: str = "") -> tuple[Path, Record] | None:
    """The record that `policy` allows to stand for a measurement of this key, if its file lives.

    `since`: when this sweep began; what another of its processes measured counts with any policy.
    """
    if policy is Rerun.all and not since:
        return None
    try:
        path = Path(json_file.read(_entry(wanted))["record"])
        found = records.read(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if policy is Rerun.all and found.started < since:
        return None
    reusable = found.status in ("ok", "invalid") or policy is Rerun.never
    return (path, found) if found.key == wanted and reusable else None


def _warn(what: str, error: OSError) -> None:
    terminal.say(f"warning: the ledger in {store.root()} cannot be used, {what}: {error}")


@contextmanager
def turn(wanted: str) -> Iterator[None]:
    """One process at a time measures a key of a sweep; the others wait, then find its record."""
    from filelock import FileLock

    lock = _entry(wanted).with_suffix(".lock")
    held = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except OSError as error:  # two processes may measure the same then, which is no loss
        _warn("its lock cannot be taken", error)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            held.release()


def known() -> Iterator[tuple[Path, Record]]:
    """Every valid measurement made here with this code, in a stable order."""
    for entry in sorted(_entry("any").parent.glob("*.json")):
        if found := recall(entry.stem, Rerun.failed):
            yield found


def policy_of(config: Config, multirun: bool) -> Rerun:
    """`rerun`, or its default: a sweep continues, a single command measures.

    What stands behind an address is not known from one day to the next: measured again.
    """
    continues = multirun and not backend_of(config).remote
    return config.rerun or (Rerun.failed if continues else Rerun.all)


@cache
def place() -> str:
    """Key of this machine and this code."""
    here = describe()
    packages = {name: here["packages"].get(name) for name in PACKAGES}
    parts = [processor(), here["cores"], gpu.kinds(), packages, code_version(), *_fewer()]
    return key(parts)[:12]


def _fewer() -> list[str]:
    """The cores and threads this process may use, where they are not all of them."""
    found = [f"{name}={os.environ[name]}" for name in THREADS if os.environ.get(name)]
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
        found += [f"cores={usable}"] if usable != os.cpu_count() else []
    return found


@cache
def code_version() -> str:
    """Hash of the modules that can change a figure, and of the built-in prompts."""
    folder = PACKAGE
    digest = hashlib.sha256()
    for file in sorted([*folder.rglob("*.py"), folder / "assets" / "prompts.txt"]):
        name = file.relative_to(folder)
        if not any(name.is_relative_to(place) for place in NO_MEASURE):
            digest.update(str(name).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _entry(wanted: str) -> Path:
    return store.root() / "ledger" / place() / f"{wanted}.json"


def _paired(pair: str, mode: str) -> Path:
    return store.root() / "ledger" / place() / "pairs" / f"{pair}-{mode}.json"
