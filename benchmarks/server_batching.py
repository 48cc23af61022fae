"""How much of Offline's throughput does Server keep, when a batch has a fixed cost?

    python benchmarks/server_batching.py

A fake model of 40 ms a batch plus 1 ms an image, batches of 16: one at a time it draws 24 images/s,
in full batches 286. Server must complete 0.9 of what Offline measures, with the 99th percentile
inside a limit of 1 s. One process per test. Exits 1 if it does not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _fake import configure, measure, opened

SHARE, LIMIT_MS = 0.9, 1000.0
MODEL = ["backend.latency_ms=40", "backend.sample_ms=1", "backend.batch_size=16"]
CAPACITY = 16 / 0.056


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--server-qps", type=float, help="one Server test at this rate")
    parser.add_argument("--offline", action="store_true", help="one Offline test")
    chosen = parser.parse_args()
    if chosen.offline:
        return show(offline(chosen.seconds))
    if chosen.server_qps:
        return show(server(chosen.seconds, chosen.server_qps))
    seconds = ["--seconds", str(chosen.seconds)]
    most = child("--offline", *seconds)["rate"]
    found = child("--server-qps", str((SHARE + 0.02) * most), *seconds)
    share = found["rate"] / most
    print(f"Offline {most:.1f} samples/s; Server {found['rate']:.1f} = {share:.3f} of it, "
          f"p99 {found['p99_ms']:.0f} ms of {LIMIT_MS:.0f}, {found['batch']:.1f} samples a batch, "
          f"{found['validity']}, lost: {found['lost'] or 'none'}")  # fmt: skip
    good = share >= SHARE and found["validity"] == "VALID" and not found["lost"]
    print(json.dumps({"server_over_offline": share, "p99_ms": found["p99_ms"], "ok": good}))
    return 0 if good else 1


def child(*words: str) -> dict:
    line = [sys.executable, __file__, *words]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def offline(seconds: float) -> dict:
    config = configure(*MODEL, "scenario=Offline", f"scenario.target_qps={CAPACITY}",
                       f"scenario.min_duration_ms={round(seconds * 1e3)}")  # fmt: skip
    return test(config, "result_samples_per_second")


def server(seconds: float, qps: float) -> dict:
    config = configure(*MODEL, "scenario=Server", f"scenario.target_qps={qps}",
                       f"scenario.target_latency_ms={LIMIT_MS}", "scenario.max_wait_ms=100",
                       "scenario.target_latency_percentile=0.99", "scenario.min_query_count=459",
                       f"scenario.min_duration_ms={round(seconds * 1e3)}")  # fmt: skip
    return test(config, "result_completed_samples_per_sec")


def test(config, key: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        generator = opened(config)
        detail, lost, sut = measure(config, [generator.generate], Path(folder), CAPACITY)
    return {
        "rate": float(detail[key]),
        "p99_ms": detail["result_99.00_percentile_latency_ns"] / 1e6,
        "batch": sut.counts.done / sut.counts.batches,
        "validity": detail["result_validity"],
        "lost": lost,
    }


def show(found: dict) -> int:
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
