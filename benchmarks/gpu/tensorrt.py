"""In one line: has this machine a TensorRT, and does it build and load an engine of ours?

The miniature's four graphs are exported, built and run by `backend=trt`, if the library is there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu.child import Context, die_with_parent

ROOT = Path(__file__).resolve().parents[2]
FLAVORS = {"tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
           "rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12")}  # fmt: skip
"""`backend.flavor` and the packages that bring its library."""

WORDS = (
    "model=tiny", "backend=trt", "limit=1", "backend.batch_size=1", "rules=open", "tracking=off",
    "quality=none", "quality.baseline=false", "scenario.min_duration_ms=1", "model.steps=2",
    "scenario.warmup_batches=1", "model.height=64", "model.width=64",
)  # fmt: skip


def run(context: Context) -> dict[str, Any]:
    """What run.py says of each flavor, in a line."""
    told = []
    for flavor, packages in FLAVORS.items():
        known = [f"{name} {version}" for name in packages if (version := _version(name))]
        said = _said(context, flavor)
        context.note(**{flavor: {"packages": known, "said": said}})
        told.append(f"{flavor} ({', '.join(known) or 'not installed'}): {said}")
    return {"line": "; ".join(told)}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _said(context: Context, flavor: str) -> str:
    folder = context.work / f"trt-{flavor}"
    line = [sys.executable, "run.py", *WORDS, f"backend.flavor={flavor}", f"hydra.run.dir={folder}"]
    done = subprocess.run(
        line, cwd=ROOT, text=True, capture_output=True, preexec_fn=die_with_parent
    )
    print(done.stdout[-4000:], done.stderr[-4000:], flush=True)
    try:
        record = json.loads((folder / "record.json").read_text())
    except (OSError, ValueError):
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        return " ".join(" ".join(lines[:4]).split())[:400]
    if record.get("status") == "ok":
        return "loads and runs our engines"
    return f"{record.get('status')}: {' '.join(str(record.get('reason')).split())[:400]}"
