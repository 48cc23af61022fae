"""The faults that `faults.py` injects: a name, how, and how the command may end."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from _fuzz_cases import DAMAGE

FAST = ("limit=8", "backend=fake", "scenario.min_duration_ms=0", "backend.sample_ms=0",
        "model=tiny_random", "quality=none")  # fmt: skip
BUNDLED = ("model=tiny", "backend=torch", "limit=1", "model.steps=1", "quality=none",
           "scenario.min_duration_ms=0")  # fmt: skip
OFF = ("tracking=off",)
SCENARIOS = ("Offline", "Server", "SingleStream", "MultiStream")


def nothing(_: Path) -> None:
    """Nothing is in the way."""


@dataclass(frozen=True)
class Case:
    """`prepare(folder)` before; `shell` around `{run}`; then the exit code is one of `codes`."""

    name: str
    codes: tuple[int, ...]
    words: tuple[str, ...] = (*FAST, *OFF)
    prepare: Callable[[Path], object] = nothing
    shell: str = "{run}"
    env: dict[str, str] = field(default_factory=dict)
    stdout: bool = True  # can be read
    signal: str = ""
    after_s: float = 0.0


def all_cases() -> Iterator[Case]:
    """Every fault, its kind first in its name."""
    for kind in (_process, _disk, _memory, _streams, _mlflow, _files, _environment):
        yield from kind()


def _process() -> Iterator[Case]:
    # The 20th picture is drawn while measuring: nobody looks at those of the warm-up.
    limits = ("limit=32", "backend.fail_at=20", "scenario.stall_s=2", "scenario.startup_s=30")
    for scenario in SCENARIOS:
        rate = ("scenario.target_qps=50",) if scenario == "Server" else ()
        for fault in ("raises", "kill", "hang", "not_finite", "constant"):
            words = (
                *FAST[1:],
                *OFF,
                *limits,
                *rate,
                f"scenario={scenario}",
                f"backend.fail={fault}",
            )
            yield Case(f"process/{scenario}-{fault}", (1,), words)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        for after_s in (0.3, 1.2, 3.0):
            words = (*FAST, *OFF, "backend.fail=hang", "backend.fail_at=6")
            yield Case(f"process/{name}-after-{after_s}", (1,), words, signal=name, after_s=after_s)


def _disk() -> Iterator[Case]:
    for name, codes in {"loadgen": (1,), "worker.log": (1, 2)}.items():
        yield Case(f"disk/a-file-or-folder-as-{name}", codes, prepare=_in_the_way(name))
    for name in ("images.png", "record.json"):
        yield Case(f"disk/a-folder-as-{name}", (1, 2), prepare=lambda f, n=name: _folder(f, n))
    yield Case("disk/out-is-a-file", (2,), prepare=lambda f: (f / "out").write_text("x"))
    yield Case("disk/store-is-a-file", (1, 2), prepare=lambda f: (f / "store").write_text("x"))
    yield Case("disk/store-in-a-file", (1, 2), prepare=lambda f: (f / "f").write_text("x"),
               env={"SDXL_STORE": "{folder}/f/store"})  # fmt: skip
    yield Case("disk/ledger-is-a-file", (0,), prepare=lambda f: _put(f / "store/ledger", b"x"))


def _memory() -> Iterator[Case]:
    for kib in (200_000, 400_000, 1_000_000):
        yield Case(f"memory/address-space-{kib}-KiB", (0, 1), shell=f"ulimit -v {kib}; {{run}}",
                   words=(*BUNDLED, *OFF, "scenario.startup_s=60"))  # fmt: skip
    for count in (16, 32, 64):
        yield Case(f"memory/{count}-open-files", (0, 1, 2), shell=f"ulimit -n {count}; {{run}}")


def _streams() -> Iterator[Case]:
    for shell in ("> /dev/full", ">&-", "2>&-", ">&- 2>&-", "| true", "> /dev/full 2> /dev/full"):
        line = f"{{run}} {shell}; exit ${{{{PIPESTATUS[0]}}}}"
        yield Case(f"streams/{shell}", (0,), shell=line, stdout=shell == "2>&-")
    yield Case("streams/no-input", (0,), shell="{run} <&-")


def _mlflow() -> Iterator[Case]:
    addresses = {
        "refused": "http://127.0.0.1:9", "no-scheme": "nowhere", "empty-host": "http://",
        "a-folder": "sqlite:///{folder}", "nowhere": "sqlite:////nonexistent/x/mlflow.db",
    }  # fmt: skip
    words = (*FAST, "tracking=mlflow", "tracking.timeout_s=15")
    for name, address in addresses.items():
        yield Case(f"mlflow/{name}", (0, 2), words, env={"MLFLOW_TRACKING_URI": address})
    for number, content in enumerate((b"", b"SQLite format 3\x00", b"\x00" * 4096, b"text")):
        yield Case(f"mlflow/damaged-database-{number}", (0,), words,
                   prepare=lambda f, c=content: _put(f / "mlflow.db", c))  # fmt: skip
    yield Case("mlflow/locked-database", (0,), words, prepare=_another_program)


def _files() -> Iterator[Case]:
    places = {
        "record-in-the-folder": "out/record.json", "sweep-file": "sweep.json",
        "checksums": "store/digests.json",
    }  # fmt: skip
    for where, path in places.items():
        for number, content in enumerate(DAMAGE):
            yield Case(f"files/{where}-{number}", (0, 2) if "record" in where else (0,),
                       prepare=lambda f, p=path, c=content: _put(f / p, c))  # fmt: skip
    for number, content in enumerate(DAMAGE[:12]):
        yield Case(f"files/captions-{number}", (0, 2),
                   (*FAST, *OFF, "dataset=coco", "dataset.path={folder}/captions.tsv"),
                   prepare=lambda f, c=content: _put(f / "captions.tsv", c))  # fmt: skip
        yield Case(f"files/weights-{number}", (2,),
                   ("model=sdxl", "model.path={folder}/w.safetensors", "limit=1", *OFF),
                   prepare=lambda f, c=content: _put(f / "w.safetensors", c))  # fmt: skip


def _environment() -> Iterator[Case]:
    values = {
        "LANG": "C", "LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii", "COLUMNS": "1",
        "SDXL_WITHHELD": "[" * 9000, "TERM": "dumb", "TZ": "nowhere", "OMP_NUM_THREADS": "x",
        "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUTF8": "0", "TMPDIR": "{folder}/nowhere",
        "PATH": "/nonexistent", "HOME": "/nonexistent",
    }  # fmt: skip
    for name, value in values.items():
        yield Case(f"environment/{name}", (0,), env={name: value})
    gone = "mkdir {folder}/gone; cd {folder}/gone; rmdir {folder}/gone; {run}"
    yield Case("environment/deleted-working-directory", (0, 2), shell=gone)
    # An administrator opens what nobody may open.
    codes = (0,) if os.geteuid() == 0 else (1, 2)
    yield Case("environment/umask-777", codes, shell="umask 777; {run}")


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _folder(folder: Path, name: str) -> None:
    (folder / "out" / name).mkdir(parents=True)


def _in_the_way(name: str) -> Callable[[Path], None]:
    return lambda f: _put(f / "out" / name, b"x") if name == "loadgen" else _folder(f, name)


_held: list[sqlite3.Connection] = []


def _another_program(folder: Path) -> None:
    """Holds the database as long as this process lives."""
    held = sqlite3.connect(folder / "mlflow.db")
    held.execute("create table t (x)")
    held.commit()
    held.execute("begin exclusive")
    _held.append(held)
