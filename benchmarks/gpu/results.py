"""Files of a session: one JSON per step, written whole or not at all, and the summary of all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

FINAL = ("ok", "failed", "timed out", "skipped")
"""States that a step ends in; it is `running` before, with what it has found so far."""

SUMMARY = "summary.json"
TABLE = "summary.md"
LOG = "log.txt"


def write(file: Path, content: Any) -> None:
    """JSON under its name only when it is whole: a kill in between leaves the old one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1, default=str) + "\n")
    temporary.replace(file)


def read(file: Path) -> dict[str, Any]:
    """A step's result; empty if there is none that can be read."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def summarize(out: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write `summary.json` (every step whole) and `summary.md` (a line for each) into `out`."""
    steps = {file.stem: read(file) for file in sorted(out.glob("[0-9][0-9]-*.json"))}
    summary = {**facts, "steps": steps}
    write(out / SUMMARY, summary)
    lines = [f"# {key}: {value}" for key, value in facts.items()]
    lines += ["", "| step | state | s | found |", "|---|---|---|---|"]
    for name, step in steps.items():
        told = step.get("line") or step.get("error", {}).get("text", "") or step.get("reason", "")
        told = " ".join(str(told).split())[:400].replace("|", "/")
        lines.append(f"| {name} | {step.get('state')} | {step.get('seconds', '')} | {told} |")
    temporary = out / f".{TABLE}"
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(out / TABLE)
    return summary


def copy(out: Path, target: Path) -> None:
    """Summary, table and log into another folder: three small files in place of many."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (SUMMARY, TABLE, LOG):
        if (out / name).is_file():
            temporary = target / f".{name}"
            shutil.copyfile(out / name, temporary)
            temporary.replace(target / name)


def resume(summary: Path, out: Path) -> int:
    """The steps that another session's summary has as `ok`, into `out`; how many there are."""
    kept = 0
    for name, step in read(summary).get("steps", {}).items():
        file = out / f"{name}.json"
        if step.get("state") == "ok" and not file.exists():
            write(file, step)
            kept += 1
    return kept
