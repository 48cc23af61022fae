"""The whole measurement on a fresh GPU machine: kernels, then the ladder, in one command.

    python benchmarks/gpu_session.py
    python benchmarks/gpu_session.py model=tiny precision=fp32 rules=open model.steps=2 limit=2

Words are handed to `run.py`; without any: `model=sdxl_random precision=bf16`, 16 pictures in
batches of 8. Nothing is downloaded. A machine with torch and Triton needs the wheels named in
`gpu_wheels.txt` besides:  pip install --no-index --find-links wheels -r benchmarks/gpu_wheels.txt
Neither this command on a GPU nor that list on a fresh machine has been tried yet.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

WORDS = (
    "model=sdxl_random", "precision=bf16", "limit=16", "backend.batch_size=8", "rules=open",
    "scenario.min_duration_ms=1", "scenario.warmup_batches=1", "calib_size=1",
    "quant.report_prompts=0",
)  # fmt: skip


def ladder(words: list[str]) -> list[dict[str, Any]]:
    """Run the ladder; its records in the order of the rungs."""
    line = [sys.executable, "run.py", "-m", "+experiment=gpu_ladder", "tracking=off", *words]
    done = subprocess.run(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    outcome = json.loads(done.stdout.splitlines()[-1])
    return [json.loads(Path(path).read_text()) for path in outcome["records"] if path]


def show(records: list[dict[str, Any]]) -> None:
    """One line per rung, and its ratio to the first."""
    names = ("rung", "images/s", "ms/image", "TFLOP/s", "roofline", "GiB", "ratio")
    print("  ".join(f"{name:>12}" for name in names))
    first = None
    for record in records:
        found = record["performance"]
        rung = next(w for w in record["command"].split() if w.startswith("+rung="))[6:]
        rate = found.get("images_per_second")
        if not rate:
            print(f"{rung:>12}  {record['status']}: {record['reason']}")
            continue
        first = first or rate
        memory = record["resources"]
        peak = memory.get("cuda_peak_bytes") or memory["peak_rss_bytes"]
        share = found.get("roofline", {}).get("share")
        cells = (
            rung, f"{rate:.3f}", f"{1e3 / rate:.1f}", f"{found['tflops']:.2f}",
            "-" if share is None else f"{share:.1%}", f"{peak / 2**30:.2f}", f"{rate / first:.3f}",
        )  # fmt: skip
        print("  ".join(f"{cell:>12}" for cell in cells))


def main() -> None:
    words = sys.argv[1:]
    if not words:
        subprocess.run([sys.executable, "benchmarks/kernels.py"], cwd=ROOT)
    show(ladder(words or list(WORDS)))


if __name__ == "__main__":
    main()
