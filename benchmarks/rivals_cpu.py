"""Our backends beside their rivals on this processor: the same weights, inputs, noise and steps.

    python benchmarks/rivals_cpu.py --rounds 7                    a UNet of SDXL's widths, forwards
    python benchmarks/rivals_cpu.py --model bundled --rounds 7    pictures of the bundled model
    python benchmarks/rivals_cpu.py --only "ort INT8,SDNQ"        some of them, and the reference

One process. Every rival gets a copy of one UNet in fp32 and, if it calibrates, the same inputs.
They take turns, round by round, `--together` of them at a time beside diffusers in fp32, so that no
more copies are in memory. A turn counts if the host left the processors alone before and after it
(`sdxl/bench/parallel_region.py`); rounds go on until each rival has `--rounds` such turns, or for
five times as many, after which all turns of all count. Wall and processor seconds are medians,
ratios those to diffusers with a 90 % interval (bootstrap; below 5 turns the least and the most).
Pictures share encoders, scheduler, noise and VAE (torch, fp32): what differs is the UNet. A rival
that is not installed or fails is named with the reason.
`--layers 1,2,10 --blocks 2 --only ...` is the whole UNet, 10 GB a copy.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil
import torch
from _rivals import RIVALS, Bench, Call, Given, module

from sdxl.bench.parallel_region import Gauge
from sdxl.core import environment, memory

REFERENCE = next(iter(RIVALS))
BOOTSTRAP, LEAST_ROUNDS = 2000, 5
"""Draws of an interval, and the turns it takes to have one."""
AT_MOST = 5
"""So many times `--rounds`, for the turns in which the machine was not left alone."""
Work = Callable[[Call], Any]
"""What is timed: a forward, or a batch of pictures."""
Turn = tuple[float, float, float]
"""Wall seconds, processor seconds, and the larger reading of the gauge around them."""


def main() -> int:
    """Make every rival, time them in turn, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("widths", "bundled"), default="widths")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", help="parts of rivals' names, by commas")
    parser.add_argument("--together", type=int, help="rivals in memory at a time")
    parser.add_argument("--level", type=float, default=3.0)
    parser.add_argument("--images", type=int, default=4, help="bundled: pictures of a batch")
    parser.add_argument("--latent", type=int, default=64)
    parser.add_argument("--layers", default="1,1,2", help="transformer layers of each level")
    parser.add_argument("--blocks", type=int, default=1, help="residual blocks of a level")
    parser.add_argument("--json", type=Path, help="write the result here too")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    gauge = Gauge(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        bench, work, compare = (bundled if asked.model == "bundled" else widths)(asked, folder)
        rows: dict[str, dict[str, Any]] = {}
        absent: dict[str, str] = {}
        for names in heats(chosen(asked.only), asked.together):
            calls = made(bench, names, work, absent)
            outputs = {name: work(call) for name, call in calls.items()}
            quality = {name: compare(outputs[REFERENCE], each) for name, each in outputs.items()}
            rows |= measured(*timed(calls, work, asked.rounds, gauge), quality)
            del calls, outputs
            gc.collect()
            memory.give_back()
            result = {**facts(asked, bench, gauge), "rows": rows, "absent": absent}
            if asked.json:  # after every heat: a run that is stopped keeps what it measured
                asked.json.write_text(json.dumps(result, indent=1))
    show(rows)
    print(json.dumps({**result, "model": asked.model}))
    return 0


def facts(asked: Any, bench: Bench, gauge: Gauge) -> dict[str, Any]:
    """Of the machine and the libraries, beside the figures."""
    return {"cpu": environment.describe()["cpu"], "threads": asked.threads,
            "load": os.getloadavg(), "gauge_us": round(gauge.least, 3) if gauge.there else None,
            "versions": {"torch": torch.__version__, **bench.versions}}  # fmt: skip


def widths(asked: Any, folder: str) -> tuple[Bench, Work, Callable[[Any, Any], dict[str, float]]]:
    """One row through a UNet of SDXL's widths with random weights."""
    from sdxl.model import architecture
    from sdxl.model.seeded import RandomSource

    unet = {**architecture.SDXL["unet"], "layers_per_block": asked.blocks,
            "transformer_layers_per_block": [int(n) for n in asked.layers.split(",")]}  # fmt: skip
    source = RandomSource({**architecture.SDXL, "unet": unet}, 0, through_fp32=False)
    generator = torch.Generator().manual_seed(0)
    pixels, size = asked.latent * 8.0, asked.latent

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    ids = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]])
    given: Given = (draw(1, 4, size, size), torch.tensor([500.0]), draw(1, 77, 2048),
                    draw(1, 1280), ids)  # fmt: skip
    bench = _bench(source, [given], folder, asked)
    return bench, lambda call: call(*given), distances


def bundled(asked: Any, folder: str) -> tuple[Bench, Work, Callable[[Any, Any], dict[str, float]]]:
    """A batch of pictures of the bundled model, its UNet exchanged."""
    from hydra import compose, initialize_config_dir

    from sdxl.bench.generators import open_generator
    from sdxl.config.load import load
    from sdxl.config.registry import register
    from sdxl.core.paths import ROOT
    from sdxl.model import prompts
    from sdxl.model.sources import open_source
    from sdxl.quality.baseline import compare

    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = load(compose("run", ["backend.loop=scheduler", f"limit={asked.images}"]))
    chosen = prompts.load(config.dataset, config.limit, config.seed)
    sampler: Any = open_generator(config, {}, chosen)
    seen: list[Given] = []
    """Inputs of the reference's first batch."""
    noting = [True]

    def work(call: Call) -> Any:
        def unet(sample: Any, timestep: Any, embeddings: Any) -> torch.Tensor:
            parts = (embeddings.hidden, embeddings.pooled, embeddings.time_ids)
            given = tuple(n.float() for n in (sample, timestep.reshape(1), *parts))
            if noting:
                seen.append(given)
            return call(*given)

        sampler.stages.unet = unet
        return sampler.generate(range(asked.images))

    source = open_source(config.model, config.seed)
    bench = _bench(source, seen, folder, asked)
    work(module(bench.unet))
    noting.clear()
    bench.examples = seen[: config.model.steps : 2]

    def near(theirs: Any, ours: Any) -> dict[str, float]:
        found = compare(list(theirs), list(ours))
        same = {} if found["psnr_db"] is None else {"psnr_db": found["psnr_db"]}
        return {**same, "ssim": found["ssim"]}

    return bench, work, near


def _bench(source: Any, examples: Sequence[Given], folder: str, asked: Any) -> Bench:
    def component(device: str) -> Any:
        return source.component("unet", torch.float32, torch.device(device))

    return Bench(component("cpu"), lambda: component("meta"), examples, Path(folder),
                 asked.threads, asked.level)  # fmt: skip


def chosen(only: str | None) -> list[str]:
    """Names of the rivals that were asked for, without the reference."""
    parts = [part.strip() for part in only.split(",")] if only else [""]
    others = (name for name in RIVALS if name != REFERENCE)
    return [name for name in others if any(part in name for part in parts)]


def heats(names: Sequence[str], together: int | None) -> list[list[str]]:
    """The rivals, so many at a time, each time with the reference."""
    size = together or len(names) or 1
    return [[REFERENCE, *names[start : start + size]] for start in range(0, len(names) or 1, size)]


def made(bench: Bench, names: Sequence[str], work: Work, absent: dict[str, str]) -> dict[str, Call]:
    """The rivals that run, each tried once; `absent` gets why the others do not."""
    calls: dict[str, Call] = {}
    for name in names:
        began = time.process_time()
        try:
            call = RIVALS[name](bench)
            work(call)
        except Exception as error:  # of packages that are not ours, of any kind
            absent[name] = f"{type(error).__name__}: {str(error)[:200]}"
            print(f"{name}: left out, {absent[name]}", file=sys.stderr, flush=True)
            continue
        calls[name] = call
        rss = psutil.Process().memory_info().rss / 1e9
        spent = time.process_time() - began
        print(f"{name}: made in {spent:.1f} CPU s, {rss:.1f} GB in memory", file=sys.stderr,
              flush=True)  # fmt: skip
    return calls


def timed(
    calls: dict[str, Call], work: Work, rounds: int, gauge: Gauge
) -> tuple[dict[str, list[Turn]], int]:
    """The turns of each call that count, and the rounds it took; every other goes backwards.

    Where one has too few calm turns, all turns of all count: a calm one beside a disturbed one is
    no comparison. The rows say how many.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in calls}

    def calm(name: str) -> list[Turn]:
        return [turn for turn in turns[name] if gauge.calm(turn[2])]

    number = 0
    while number < rounds * AT_MOST and any(len(calm(name)) < rounds for name in calls):
        for name in list(calls) if number % 2 else reversed(list(calls)):
            before, wall, spent = gauge.read(), time.perf_counter(), time.process_time()
            work(calls[name])
            wall, spent = time.perf_counter() - wall, time.process_time() - spent
            turns[name].append((wall, spent, max(before, gauge.read())))
        number += 1
    enough = all(len(calm(name)) >= rounds for name in calls)
    return {name: calm(name) if enough else turns[name] for name in calls}, number


def measured(
    turns: dict[str, list[Turn]], rounds: int, quality: dict[str, dict[str, float]]
) -> dict[str, dict[str, Any]]:
    """A row for each rival of a heat."""
    rows: dict[str, dict[str, Any]] = {}
    for name, found in turns.items():
        row: dict[str, Any] = {"turns": len(found), "rounds": rounds}
        for place, unit in enumerate(("wall_s", "cpu_s")):
            base, own = ([turn[place] for turn in each] for each in (turns[REFERENCE], found))
            row[unit] = round(statistics.median(own), 4)
            row[f"{unit}_speed_up"] = [round(n, 3) for n in interval(base, own)]
        rows[name] = {**row, "quality": {n: round(value, 4) for n, value in quality[name].items()}}
    return rows


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print them, the fastest over its heat's reference first."""
    few = min(row["turns"] for row in rows.values()) < LEAST_ROUNDS
    ratio = f"of fp32 ({'range' if few else '90 %'})"
    print(f"{'':34}{'wall s':>9} {ratio:>24}{'CPU s':>9} {ratio:>24}{'turns':>9}  quality")
    for name, row in sorted(rows.items(), key=lambda each: -each[1]["wall_s_speed_up"][1]):
        cells = ""
        for unit in ("wall_s", "cpu_s"):
            low, middle, high = row[f"{unit}_speed_up"]
            cells += f"{row[unit]:9.3f} {f'{middle:.2f} ({low:.2f} to {high:.2f})':>24}"
        cells += f"{row['turns']:4} of{row['rounds']:3}"
        near = ", ".join(f"{n} {value:g}" for n, value in row["quality"].items())
        print(f"{name:34}{cells}  {near}")


def interval(base: Sequence[float], own: Sequence[float]) -> tuple[float, float, float]:
    """5 %, middle and 95 % of the ratio of medians, by resampling; of few turns least and most."""
    middle = statistics.median(base) / statistics.median(own)
    if min(len(base), len(own)) < LEAST_ROUNDS:
        return min(base) / max(own), middle, max(base) / min(own)
    draw = random.Random(0)

    def again(seconds: Sequence[float]) -> float:
        return statistics.median(draw.choices(seconds, k=len(seconds)))

    ratios = sorted(again(base) / again(own) for _ in range(BOOTSTRAP))
    return ratios[BOOTSTRAP // 20], middle, ratios[-BOOTSTRAP // 20]


def distances(theirs: torch.Tensor, ours: torch.Tensor) -> dict[str, float]:
    """The difference's norm over the reference's."""
    return {"relative_distance": float((ours - theirs).norm() / theirs.norm())}


if __name__ == "__main__":
    sys.exit(main())
