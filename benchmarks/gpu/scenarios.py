"""The second call: whole runs through run.py and LoadGen, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks.gpu.child import Context, die_with_parent
from benchmarks.gpu.model import USUAL, configure, rehearsed

PERFORMANCE = (
    "scenario", "images_per_second", "value", "unit", "metric", "latency_ms", "stage_ms", "counts",
    "warm_up", "peak", "roofline", "tflops", "batch_size",
)  # fmt: skip
RECORD = ("status", "reason", "durations", "resources", "verdict")
"""What is kept of a record's performance, and of the record itself."""

LAST = 60
"""Lines of output that are kept, also of a run whose time was up."""
NOTED_S = 2.0
"""Between two notes of them."""


def run(context: Context, words: tuple[str, ...], batch: int | None) -> dict[str, Any]:
    """A cell's figures; its record stays in the folder of the session."""
    config = configure(context, words, batch)
    line = [*USUAL, "scenario.warmup_batches=1", *words]
    if context.rehearse:
        line += rehearsed(words)
        line += ["scenario.min_duration_ms=1"]
        if "scenario=Offline" not in words:
            line.append("scenario.min_query_count=2")
    if config.backend.batch_size:
        line.append(f"backend.batch_size={config.backend.batch_size}")
    else:
        line.append("backend.batch_size=null")
    line.append(f"quant.statistics={config.quant.statistics}")
    folder = context.work / context.state.setdefault("folder", f"run-{os.getpid()}")
    command = [sys.executable, "run.py", *line, f"hydra.run.dir={folder}"]
    context.note(command=" ".join(command[1:]))
    _streamed(command, context)
    record = json.loads((folder / "record.json").read_text())
    kept = of_record(record)
    context.note(**kept)
    if kept["status"] not in ("ok", "invalid"):  # LoadGen's verdict over so few queries: no matter
        raise RuntimeError(f"run.py says {kept['status']}: {kept['reason']}")
    found, seconds = kept["performance"], kept["durations"]
    told = {k: found[k] for k in ("images_per_second", "value", "unit", "latency_ms") if k in found}
    reason = f", {kept['status']}: {kept['reason']}" if kept["status"] == "invalid" else ""
    return {"line": f"{found.get('scenario')}: {told}, seconds: {seconds}{reason}"}


def of_record(record: dict[str, Any]) -> dict[str, Any]:
    """What the session's summary has of a run's record."""
    performance = record.get("performance") or {}
    detail = (performance.get("loadgen") or {}).get("detail") or {}
    return {
        **{key: record.get(key) for key in RECORD},
        "performance": {key: performance[key] for key in PERFORMANCE if key in performance},
        "loadgen": {key: value for key, value in detail.items() if key.startswith("result_")},
    }


def _streamed(command: list[str], context: Context) -> None:
    """Run it; its last lines are printed and noted as they come, so that a kill leaves them."""
    last: deque[str] = deque(maxlen=LAST)
    noted = time.monotonic()
    # In the session's own process group: whoever ends the step ends this as well.
    with subprocess.Popen(
        command, cwd=Path(__file__).resolve().parents[2], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, errors="replace", preexec_fn=die_with_parent,
    ) as running:  # fmt: skip
        for line in running.stdout or ():
            print(line, end="", flush=True)
            last.append(line.rstrip())
            if time.monotonic() - noted > NOTED_S:
                context.note(printed=list(last))
                noted = time.monotonic()
    context.note(printed=list(last), exit_status=running.returncode)
