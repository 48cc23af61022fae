"""Can the harness keep up? A model of 1 ms a batch under Offline and Server, 128 x 128 responses.

    python benchmarks/load.py
    python benchmarks/load.py --seconds 5 --scenario Offline

At least 10,000 samples/s Offline, and 1,000 queries/s Server with a 99th percentile under 20 ms.
Every sample is accounted for: answered once, counted by LoadGen, with its own index's picture.
One process per scenario, since LoadGen reads its rules once. Exits 1 if a figure is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _fake import configure, measure, open_fake

WANTED = {"Offline": 10_000.0, "Server": 1_000.0}
P99_MS = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", choices=WANTED, help="one of the two (default: both)")
    parser.add_argument("--seconds", type=float, default=10.0)
    chosen = parser.parse_args()
    if not chosen.scenario:
        codes = [
            subprocess.run(
                [sys.executable, __file__, "--scenario", name, "--seconds", str(chosen.seconds)],
                check=False,
            ).returncode
            for name in WANTED
        ]
        return max(codes)
    return one(chosen.scenario, chosen.seconds)


def one(name: str, seconds: float) -> int:
    words = ["backend.latency_ms=1", "backend.sample_ms=0", f"scenario={name}",
             f"scenario.min_duration_ms={round(seconds * 1e3)}"]  # fmt: skip
    if name == "Offline":
        words += ["backend.batch_size=64", f"scenario.target_qps={1.2 * WANTED[name]}"]
    else:
        words += ["backend.batch_size=32", f"scenario.target_qps={1.05 * WANTED[name]}",
                  f"scenario.target_latency_ms={P99_MS}", "scenario.max_wait_ms=4",
                  "scenario.target_latency_percentile=0.99"]  # fmt: skip
    config = configure(*words)
    with tempfile.TemporaryDirectory() as folder:
        generator = open_fake(config)
        detail, lost, sut = measure(config, [generator.generate], Path(folder), WANTED[name])
    key = {"Offline": "result_samples_per_second", "Server": "result_completed_samples_per_sec"}
    rate = float(detail[key[name]])
    p99 = detail["result_99.00_percentile_latency_ns"] / 1e6
    counts = sut.counts
    print(
        f"{name}: {rate:,.0f} samples/s, p99 {p99:,.2f} ms, {detail['result_validity']}; "
        f"{counts.done:,} samples in {counts.batches:,} batches; lost: {'; '.join(lost) or 'none'}"
    )
    good = rate >= WANTED[name] and not lost
    if name == "Server":
        good &= p99 < P99_MS and detail["result_validity"] == "VALID"
    print(json.dumps({"scenario": name, "samples_per_second": rate, "p99_ms": p99, "ok": good}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
