"""Does `find_peak=true` find a known capacity?   python benchmarks/find_peak.py

A fake model of 50 ms a batch of 40: 800 images/s. Its latency limit is 8 batches, which a queue
keeps up to about 1 % below the capacity, and each probe takes 50 times the limit, so that no more
than 2 % of overload can hide in the backlog at its end; Poisson arrivals move both by 1 %. The
peak must lie within 5 % of the capacity. Exits 1 if it does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

BATCH_MS, BATCH = 50, 40
CAPACITY, WITHIN = 1e3 / BATCH_MS * BATCH, 0.05
LIMIT_MS = 8 * BATCH_MS


def main() -> int:
    run = Path(__file__).resolve().parent.parent / "run.py"
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "backend=fake", f"backend.latency_ms={BATCH_MS}", "backend.sample_ms=0",
            f"backend.batch_size={BATCH}", "scenario=Server", f"scenario.max_wait_ms={BATCH_MS}",
            f"scenario.target_latency_ms={LIMIT_MS}", f"scenario.target_qps={0.75 * CAPACITY}",
            f"scenario.min_duration_ms={50 * LIMIT_MS}", "quality=none", "tracking=off",
            "find_peak=true", "rerun=all", f"hydra.run.dir={folder}",
        ]  # fmt: skip
        ended = subprocess.run([sys.executable, str(run), *words], check=False)
        if ended.returncode:
            return ended.returncode
        peak = json.loads((Path(folder) / "record.json").read_text())["performance"]["peak"]
    for probe in peak["probes"]:
        said = "VALID" if probe["valid"] else "INVALID"
        done = f"{probe['completed_per_second']:.1f} completed"
        print(f"{probe['qps']:8.1f} queries/s: {said}, {done}, p99 {probe['p99_ms']:.0f} ms")
    off = peak["qps"] / CAPACITY - 1
    print(f"peak {peak['qps']:.1f} of {CAPACITY:.0f}: {off:+.1%}   (at most {WITHIN:.0%} wanted)")
    print(json.dumps({"peak_qps": peak["qps"], "off": off, "ok": abs(off) <= WITHIN}))
    return 0 if abs(off) <= WITHIN else 1


if __name__ == "__main__":
    sys.exit(main())
