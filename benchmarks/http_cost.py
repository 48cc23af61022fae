"""What HTTP costs: Offline through a server over Offline in this process, at the same batch.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/http_cost.py
    python benchmarks/http_cost.py --rounds 5 --batches 4

A server in a process of its own and the same setting here, LoadGen's Offline test on the one and
the other in turn, `--batches` batches of 8 a round; the median of the paired ratios. Exits 1 if
HTTP keeps less than 0.95 of the throughput. Beside it the same in processor seconds, which other
work on the machine changes less: what client and server spend around the model, over the model's.
`OMP_WAIT_POLICY=PASSIVE` matters on few cores: threads of the model that spin take the time in
which pictures are sent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
from _serve import Served, say
from hydra import compose, initialize_config_dir

from sdxl.bench import generators, loadgen
from sdxl.bench.keep import Keeper
from sdxl.config.load import load
from sdxl.config.registry import register
from sdxl.core.paths import ROOT
from sdxl.model import prompts

WANTED = 0.95
BATCH = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4, help="batches of 8 a round")
    parser.add_argument("words", nargs="*", default=["model=tiny"], help="the setting")
    chosen = parser.parse_args()
    count = BATCH * chosen.batches
    register()
    asked = [*chosen.words, f"limit={count}", "scenario.min_duration_ms=0"]
    here = configure([*asked, f"backend.batch_size={BATCH}"])
    with Served(*chosen.words, "--batch", str(BATCH)) as served:
        model = [word for word in asked if not word.startswith("backend")]
        there = configure([*model, "backend=http", f"backend.url={served.url}"])
        sides = {"in process": here, "over HTTP": there}
        opened = {name: open_side(config) for name, config in sides.items()}
        server = psutil.Process(served.pid)
        rounds = []
        for number in range(chosen.rounds):
            began = sum(server.cpu_times()[:2])
            names = order_of(sides, number)
            each = dict(offline(sides[name], opened[name], count) for name in names)
            rounds.append((each, (sum(server.cpu_times()[:2]) - began) / count))
    return show(rounds, served.line)


def configure(words: list[str]):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return load(compose("run", words))


def order_of(sides: dict, number: int) -> list[str]:
    """A B, B A, A B, ...: whoever comes second has the machine as the first left it."""
    return list(sides) if number % 2 == 0 else list(reversed(sides))


def open_side(config):
    """The generator, warm."""
    asked = prompts.load(config.dataset, config.limit, config.seed)
    generator = generators.open_generator(config, {}, asked)
    generator.generate(list(range(min(BATCH, len(asked)))))
    return generator


def offline(config, generator, count: int) -> tuple[str, tuple[float, float]]:
    """Images/s of one Offline test, and this process's CPU seconds an image."""
    asked = prompts.load(config.dataset, config.limit, config.seed)
    lanes = [lane.generate for lane in getattr(generator, "lanes", [generator])]
    with tempfile.TemporaryDirectory() as folder:
        settings = loadgen.test_settings(config, count, loadgen.WarmUp(1.0, 1.0))
        keeper = Keeper(Path(folder) / "images", asked, 8, False)
        test = loadgen.Test(config, settings, count, lanes, keeper.take, _fail, Path(folder))
        began, cpu = time.perf_counter(), time.process_time()
        test.run()
        rate = count / (time.perf_counter() - began)
    return config.backend.name, (rate, (time.process_time() - cpu) / count)


def _fail(error: BaseException) -> None:
    raise SystemExit(f"failed: {error}")


def show(rounds: list, line: dict) -> int:
    """The table and the JSON line."""
    ratios, shares, extras = [], [], []
    for each, server_s in rounds:
        (rate, client_s), (local, model_s) = each.pop("http"), next(iter(each.values()))
        ratios.append(rate / local)
        extras.append(client_s + server_s)
        shares.append(model_s / (model_s + client_s + server_s))
        say(f"in process {local:.3f} images/s, over HTTP {rate:.3f}: {ratios[-1]:.3f}")
    ratio, share, extra = map(statistics.median, (ratios, shares, extras))
    print(f"over HTTP / in process: {ratio:.3f}   (at least {WANTED} wanted)")
    print(f"in processor seconds: {share:.3f}, {1e3 * extra:.1f} ms a picture around the model")
    good = ratio >= WANTED and not line.get("deaths")
    print(json.dumps({"ratio": ratio, "cpu_ratio": share, "cpu_ms": 1e3 * extra, "ok": good}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
