"""The second call: whole runs through run.py and LoadGen, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.child import Context, die_with_parent
from benchmarks.gpu.model import USUAL, configure, rehearsed

KEPT = (
    "scenario", "images_per_second", "value", "unit", "metric", "latency_ms", "valid", "verdict",
    "stage_ms", "counts", "warm_up", "peak", "roofline", "tflops", "batch_size", "durations",
)  # fmt: skip


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
    root = Path(__file__).resolve().parents[2]
    # In the session's own process group: whoever ends the step ends this as well.
    done = subprocess.run(
        command, cwd=root, text=True, stdout=subprocess.PIPE, preexec_fn=die_with_parent
    )
    print(done.stdout, flush=True)
    record = json.loads((folder / "record.json").read_text())
    performance = record.get("performance") or {}
    kept = {key: performance[key] for key in KEPT if key in performance}
    context.note(status=record.get("status"), reason=record.get("reason"), performance=kept,
                 resources=record.get("resources"))  # fmt: skip
    status = record.get("status")
    if status not in ("ok", "invalid"):  # LoadGen's verdict over so few queries is not what counts
        raise RuntimeError(f"run.py says {status}: {record.get('reason')}")
    told = {k: kept[k] for k in ("images_per_second", "value", "unit", "latency_ms") if k in kept}
    reason = f", {status}: {record.get('reason')}" if status == "invalid" else ""
    return {"line": f"{kept.get('scenario')}: {told}{reason}"}
