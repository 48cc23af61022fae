"""Can the harness keep up? A model of 1 ms a batch under Offline and Server, 128 x 128 responses.

    python benchmarks/load.py
    python benchmarks/load.py --seconds 5 --scenario Offline

At least 10,000 samples/s Offline, and 1,000 queries/s Server with a 99th percentile under 20 ms,
both VALID by LoadGen. Offline's query is sized by the rate of the model alone, which the run cannot
exceed: sized by the rate that is wanted, a faster run ended before its minimum duration.
Every sample is accounted for: answered once, counted by LoadGen, with its own index's picture.
One process per scenario, since LoadGen reads its rules once. Exits 1 if a figure is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _fake import configure, measure, opened

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
        words += ["backend.batch_size=64"]
    else:
        words += ["backend.batch_size=32", f"scenario.target_qps={1.05 * WANTED[name]}",
                  f"scenario.target_latency_ms={P99_MS}", "scenario.max_wait_ms=4",
                  "scenario.target_latency_percentile=0.99"]  # fmt: skip
    config = configure(*words)
    with tempfile.TemporaryDirectory() as folder:
        generator = opened(config)
        alone = bare_rate(generator, config.backend.batch_size)
        began, start = time.process_time(), time.perf_counter()
        detail, lost, sut = measure(config, [generator.generate], Path(folder), alone)
        cpu_s = time.process_time() - began
    key = {"Offline": "result_samples_per_second", "Server": "result_completed_samples_per_sec"}
    rate = float(detail[key[name]])
    p99 = detail["result_99.00_percentile_latency_ns"] / 1e6
    counts = sut.counts
    print(
        f"{name}: {rate:,.0f} samples/s ({alone:,.0f} without LoadGen), p99 {p99:,.2f} ms, "
        f"{detail['result_validity']} {detail.get('result_invalid_reason', '')}after "
        f"{time.perf_counter() - start:.1f} s; "
        f"{counts.done:,} samples in {counts.batches:,} batches, {counts.done / cpu_s:,.0f} a "
        f"second of one core; lost: {'; '.join(lost) or 'none'}"
    )
    good = rate >= WANTED[name] and not lost and detail["result_validity"] == "VALID"
    if name == "Server":
        good &= p99 < P99_MS
    print(json.dumps({"scenario": name, "samples_per_second": rate, "p99_ms": p99,
                      "validity": detail["result_validity"],
                      "samples_per_cpu_second": counts.done / cpu_s, "ok": good}))  # fmt: skip
    return 0 if good else 1


def bare_rate(generator, size: int, batches: int = 200) -> float:
    """Images/s of full batches without LoadGen."""
    indices = list(range(size))
    generator.generate(indices)
    began = time.perf_counter()
    for _ in range(batches):
        generator.generate(indices)
    return size * batches / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
