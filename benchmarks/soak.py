"""Nothing lost, nothing leaked: a long Server run whose workers are killed every 20 s.

    python benchmarks/soak.py                  # 30 minutes
    python benchmarks/soak.py --model tiny --minutes 10 --every 60 --qps 1

Two workers of the fake backend, or of the bundled model, behind real LoadGen; a random one gets
SIGKILL about every 20 s, in the middle of its work or between two batches. At the end every sample
must have been answered once, with its own index's picture; no worker and no shared block may be
left; and this process may not have grown by more than 2 % after its first tenth. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from array import array
from pathlib import Path

import psutil
from _fake import configure, measure, opened, say

from sdxl.bench.pool import Patience, Pool

GROWTH = 1.02
BACKENDS = {
    "fake": ["backend.latency_ms=20", "backend.sample_ms=5", "backend.batch_size=8",
             "scenario.target_latency_ms=20000"],
    "tiny": ["backend=torch", "model=tiny", "limit=16", "backend.batch_size=4",
             "scenario.target_latency_ms=300000"],
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(BACKENDS), default="fake")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two kills")
    parser.add_argument("--qps", type=float, default=50.0)
    chosen = parser.parse_args()
    config = configure(
        *BACKENDS[chosen.model], "scenario=Server", f"scenario.target_qps={chosen.qps}",
        "scenario.target_latency_percentile=0.99",
        f"scenario.min_duration_ms={round(chosen.minutes * 60e3)}",
    )  # fmt: skip
    model = config.model
    pool = Pool(
        opened, (config,), [0, 1], 8 * model.height * model.width * 3,
        preload=chosen.model != "fake", patience=Patience(120, 1_000_000),
    )  # fmt: skip
    pool.silence_s = 60
    me = psutil.Process()
    over = threading.Event()
    sizes = array("q")
    kills = [0]
    threads = [
        threading.Thread(target=kill, args=(pool, chosen.every, over, kills), daemon=True),
        threading.Thread(target=watch, args=(me, sizes, over), daemon=True),
    ]
    for thread in threads:
        thread.start()
    with tempfile.TemporaryDirectory() as folder:
        lanes = [lane.generate for lane in pool.lanes]
        detail, lost, sut = measure(config, lanes, Path(folder), chosen.qps)
    over.set()
    for thread in threads:
        thread.join()
    deaths = pool.restarts
    again = sum(death["samples_issued_again"] for death in pool.deaths)
    pool.close()
    left = [p.pid for p in me.children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
    blocks = [path.name for path in Path("/dev/shm").glob(f"sdxl-{os.getpid()}-*")]
    growth = grown(sizes)
    p99 = detail["result_99.00_percentile_latency_ns"] / 1e6
    say(f"{sut.counts.done:,} of {sut.counts.issued:,} samples, {detail['result_validity']}, "
        f"p99 {p99:.0f} ms")  # fmt: skip
    say(f"{kills[0]} kills, {deaths} deaths noticed, {again} samples given to the next worker")
    say(f"lost: {'; '.join(lost) or 'none'}; processes left: {left or 'none'}; "
        f"shared blocks left: {blocks or 'none'}")  # fmt: skip
    say(f"resident memory, last tenth over second tenth: {growth:.4f}   (at most {GROWTH} wanted)")
    good = not lost and not left and not blocks and growth <= GROWTH and kills[0] > 0
    print(json.dumps({"samples": sut.counts.done, "kills": kills[0], "deaths": deaths,
                      "lost": lost, "growth": growth, "ok": good}))  # fmt: skip
    return 0 if good else 1


def kill(pool: Pool, every: float, over: threading.Event, kills: list[int]) -> None:
    """SIGKILL a random worker about every `every` seconds, until the test is over."""
    chance = random.Random(0)
    while not over.wait(every * chance.uniform(0.8, 1.2)):
        lane = chance.choice(pool.lanes)
        try:
            os.kill(lane.pid, signal.SIGKILL)
            kills[0] += 1
        except ProcessLookupError:
            continue


def watch(me: psutil.Process, sizes: array[int], over: threading.Event) -> None:
    """Resident memory twice a second; a line a minute."""
    told = time.monotonic()
    while not over.wait(0.5):
        sizes.append(me.memory_info().rss)
        if time.monotonic() - told > 60:
            told = time.monotonic()
            say(f"{sizes[-1] / 2**20:.1f} MiB, {len(me.children(recursive=True))} children")


def grown(values: array[int]) -> float:
    """Mean memory of the last tenth of the time over that of the second tenth."""
    tenth = max(1, len(values) // 10)
    first, last = values[tenth : 2 * tenth] or values, values[-tenth:]
    return (sum(last) / len(last)) / (sum(first) / len(first))


if __name__ == "__main__":
    sys.exit(main())
