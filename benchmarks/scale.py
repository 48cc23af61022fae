"""What 1, 10, 100, 1,000 GPUs need behind one endpoint: a simulation of queues and batches.

    python benchmarks/scale.py
    python benchmarks/scale.py --batch-s 1.9 --batch 8 --load 0.8 --hours 0.2

Poisson arrivals, one picture a request, spread over replicas by the shorter of two queues chosen at
random, as Ray Serve spreads them; each replica batches by the code that `serve` runs
(`sdxl/bench/batching.py`), on a clock of the simulation's own. No machine is measured here: every
assumption is printed, and is a setting.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from sdxl.bench import batching

GPUS = (1, 10, 100, 1000)
HEAD = ("GPUs", "offered /s", "p50 s", "p99 s", "429 %", "mean batch", "lost with a machine %",
        "answers Gbit/s", "load all from one store s", "handed on s")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-s", type=float, default=4.0, help="seconds of a full batch")
    parser.add_argument(
        "--fixed", type=float, default=0.1, help="share of it that one picture costs"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max-wait-s", type=float, default=0.05)
    parser.add_argument("--queue", type=int, default=64, help="pictures that wait at a replica")
    parser.add_argument("--load", type=float, default=0.8, help="share of the full batches' rate")
    parser.add_argument("--hours", type=float, default=0.25, help="simulated")
    parser.add_argument("--load-s", type=float, default=90.0, help="a replica from start to warm")
    parser.add_argument("--model-gb", type=float, default=7.0, help="what a machine must fetch")
    parser.add_argument("--source-gb-s", type=float, default=1.25, help="of one store of models")
    parser.add_argument("--gpus-a-machine", type=int, default=8)
    parser.add_argument("--picture-mb", type=float, default=2.0, help="of an answer")
    chosen = parser.parse_args()
    print("assumptions:")
    for name, value in vars(chosen).items():
        print(f"  --{name.replace('_', '-')} {value:g}")
    print(f"| {' | '.join(HEAD)} |\n" + "|---" * len(HEAD) + "|")
    rows = [row(count, chosen) for count in GPUS]
    for each in rows:
        print("| " + " | ".join(f"{value:,.4g}" for value in each.values()) + " |")
    print(json.dumps({"assumptions": vars(chosen), "rows": rows}))
    return 0


def row(count: int, chosen: argparse.Namespace) -> dict:
    """One size of fleet."""
    rate = chosen.load * count * chosen.batch / chosen.batch_s
    seconds = min(chosen.hours * 3600, 400_000 / rate)  # as many as are needed for a percentile
    found = Fleet(count, chosen).run(rate, seconds)
    machines = math.ceil(count / chosen.gpus_a_machine)
    once_s = chosen.model_gb / chosen.source_gb_s
    rounds = math.ceil(math.log2(machines + 1))  # whoever has the model hands it on
    return {
        "gpus": count,
        "offered_per_s": rate,
        "p50_s": float(np.quantile(found.seconds, 0.5)),
        "p99_s": float(np.quantile(found.seconds, 0.99)),
        "full_percent": 100 * found.full / (found.full + len(found.seconds)),
        "mean_batch": len(found.seconds) / found.batches,
        "lost_percent": 100 / machines,
        "answers_gbit_per_s": rate * chosen.picture_mb * 8 / 1000,
        "load_all_s": machines * once_s + chosen.load_s,
        "load_tree_s": rounds * once_s + chosen.load_s,
    }


class Fleet:
    """Replicas with a queue and a worker each, on a simulated clock."""

    def __init__(self, count: int, chosen: argparse.Namespace) -> None:
        self.chosen, self.chance = chosen, random.Random(0)
        wanted = batching.Batching(chosen.batch, max_wait_s=chosen.max_wait_s)
        self.replicas = [batching.Batches(wanted) for _ in range(count)]
        self.free = [True] * count
        self.seconds: list[float] = []
        self.full = self.batches = 0
        self.now, self.events = 0.0, []

    def run(self, rate: float, seconds: float) -> Fleet:
        """Let requests arrive for so long, then finish."""
        with mock.patch.object(batching.time, "perf_counter", lambda: self.now):
            self._later(0.0, "arrival", 0)
            while self.events:
                self.now, _, kind, place = heapq.heappop(self.events)
                if kind == "arrival":
                    self._arrive()
                    if self.now < seconds:
                        self._later(self.chance.expovariate(rate), "arrival", 0)
                elif kind == "free":
                    self.free[place] = True
                    self._go(place)
                else:
                    self._go(place)
        return self

    def _arrive(self) -> None:
        """To the shorter of two queues."""
        places = [self.chance.randrange(len(self.replicas)) for _ in range(2)]
        place = min(places, key=lambda each: len(self.replicas[each].waiting) - self.free[each])
        if len(self.replicas[place].waiting) >= self.chosen.queue:
            self.full += 1
            return
        self.replicas[place].put([self.now])
        self._later(self.chosen.max_wait_s, "deadline", place)
        self._go(place)

    def _go(self, place: int) -> None:
        """Begin a batch where one is due."""
        replica = self.replicas[place]
        if not self.free[place] or not replica.waiting:
            return
        due = replica.waiting[0][1] + self.chosen.max_wait_s
        if len(replica.waiting) < self.chosen.batch and due > self.now:
            return
        batch = replica.take(0.0)
        each_s = self.chosen.batch_s * (1 - self.chosen.fixed) / self.chosen.batch
        took = self.chosen.batch_s * self.chosen.fixed + each_s * len(batch)
        self.free[place], self.batches = False, self.batches + 1
        self.seconds += [self.now + took - arrived for arrived in batch]
        self._later(took, "free", place)

    def _later(self, seconds: float, kind: str, place: int) -> None:
        heapq.heappush(self.events, (self.now + seconds, self.chance.random(), kind, place))


if __name__ == "__main__":
    sys.exit(main())
