"""Does `find_peak=true` find a known capacity?   python benchmarks/find_peak.py

A fake model of 20 ms a batch of 4: 200 images/s. Each probe takes 25 times the latency limit, so
that no more than 4 % of overload can hide in the backlog at its end. The peak must lie within 5 %
of the capacity. Exits 1 if it does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

CAPACITY, WITHIN = 200.0, 0.05
LIMIT_MS = 400


def main() -> int:
    run = Path(__file__).resolve().parent.parent / "run.py"
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "backend=fake", "backend.latency_ms=20", "backend.sample_ms=0", "backend.batch_size=4",
            "scenario=Server", "find_peak=true", "rerun=all", "scenario.target_qps=150",
            f"scenario.target_latency_ms={LIMIT_MS}", "scenario.max_wait_ms=20", "quality=none",
            f"scenario.min_duration_ms={25 * LIMIT_MS}", "tracking=off", f"hydra.run.dir={folder}",
        ]  # fmt: skip
        done = subprocess.run([sys.executable, str(run), *words], check=False)
        if done.returncode:
            return done.returncode
        peak = json.loads((Path(folder) / "record.json").read_text())["performance"]["peak"]
    for probe in peak["probes"]:
        said = "VALID" if probe["valid"] else "INVALID"
        print(f"{probe['qps']:8.1f} queries/s: {said}, p99 {probe['p99_ms']:.0f} ms")
    off = peak["qps"] / CAPACITY - 1
    print(f"peak {peak['qps']:.1f} of {CAPACITY:.0f}: {off:+.1%}   (at most {WITHIN:.0%} wanted)")
    print(json.dumps({"peak_qps": peak["qps"], "off": off, "ok": abs(off) <= WITHIN}))
    return 0 if abs(off) <= WITHIN else 1


if __name__ == "__main__":
    sys.exit(main())
