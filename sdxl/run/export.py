"""What `export.py` does: the plan, or the pieces that the backend loads with their table."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

from sdxl.config import rules_engines, shorthand
from sdxl.config.plugins import backend_of
from sdxl.config.schema import Config
from sdxl.core import disk, terminal
from sdxl.core.command import Outcome
from sdxl.core.errors import ConfigError, Problem
from sdxl.core.progress import Progress, Say
from sdxl.run import artifacts, export_plan, jobs
from sdxl.run.artifacts import Chain, Piece
from sdxl.run.doctor.preflight import preflight


def run(config: Config, out_dir: Path, say: Say | None = None) -> Outcome:
    """Make what `config` names; the table of it goes to standard error."""
    shorthand.refuse_unread(config, "export.py")
    loads = backend_of(config).loads
    if loads not in ("graphs", "engines"):
        raise ConfigError(
            [
                Problem(
                    f"the {config.backend.name} backend loads no graph",
                    f"backend={config.backend.name}",
                    "a backend that does",
                    "backend=ort",
                )
            ]
        )
    disk.store_ready(0 if config.plan else disk.NOTES_BYTES)
    if config.plan:
        return _plan(config)
    problems = preflight(config, out_dir, runs=False)
    if loads == "engines":
        problems += rules_engines.missing(config, run=False)
    if problems:
        raise ConfigError(problems)
    began = time.perf_counter()
    with Progress(f"{config.model.name} {config.backend.name}", say) as progress:
        child = functools.partial(jobs.child, config, out_dir, progress.report, {})
        chain = artifacts.build(config, child)
    _show(chain)
    return Outcome(
        figures={
            "pieces": [_facts(piece) for piece in chain.pieces],
            "built": sum(piece.built for piece in chain.pieces),
            "cached": sum(not piece.built for piece in chain.pieces),
            "parity": chain.parity or None,
            "seconds": round(time.perf_counter() - began, 3),
        }
    )


def _facts(piece: Piece) -> dict[str, Any]:
    found = piece.manifest
    return {
        "graph": piece.graph,
        "kind": found["kind"],
        "key": found["key"],
        "path": str(piece.path),
        "built": piece.built,
        "bytes": sum(facts["bytes"] for facts in found["files"].values()),
        "seconds": found["seconds"],
        "peak_bytes": found["peak_bytes"],
        "layers": found["settings"].get("layers"),
    }


def _show(chain: Chain) -> None:
    """One line for each piece: what it is, and what making it took, now or then."""
    rows = [
        (
            each["graph"],
            each["kind"],
            each["key"],
            f"{each['bytes'] / 1e6:,.1f} MB",
            f"{each['seconds']:.1f}",
            f"{each['peak_bytes'] / 1e9:.2f} GB",
            " ".join(f"{n} {name}" for name, n in (each["layers"] or {}).items() if n),
            "built" if each["built"] else "cached: the same key",
        )
        for each in map(_facts, chain.pieces)
    ]
    right = ("size", "seconds", "peak")
    console = terminal.console(stderr=True)
    console.print(terminal.table(("component", "is", "key", *right, "layers", ""), rows, "", right))
    for graph, found in chain.parity.items():
        console.print(f"{graph} beside torch: {_parity(found)}")


def _parity(found: dict[str, Any]) -> str:
    if "skipped" in found:
        return f"not compared, {found['skipped']}"
    outputs = ", ".join(f"{name} {share:.1e}" for name, share in found["outputs"].items())
    worst = found["worst"][0]
    return (
        f"largest deviation {outputs}; of {found['layers']} layers "
        f"{worst['layer']} {worst['deviation']:.1e}"
    )


def _plan(config: Config) -> Outcome:
    """What the chain consists of, and which of it the store has; nothing is made."""
    rows, problems = export_plan.rows(config), []
    if config.backend.name == "trt":
        problems = list(rules_engines.missing(config, run=False))
    states = {True: "cached", False: "to build", None: "-"}
    shown = [(row["graph"], row["kind"], row["key"] or "-", row["as"], states[row["there"]])
             for row in rows]  # fmt: skip
    console = terminal.console(stderr=True)
    console.print(terminal.table(("component", "is", "key", "as", ""), shown))
    for problem in problems:
        console.print(f"not buildable here: {problem.what}: {problem.got}")
    return Outcome(
        figures={
            "plan": rows,
            "to_build": sum(row["there"] is False for row in rows),
            "cached": sum(row["there"] is True for row in rows),
            "missing": [problem.what for problem in problems],
        }
    )
