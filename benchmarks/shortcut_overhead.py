"""What a shortcut costs beside the UNet calls it is made of, in processor seconds.

    python benchmarks/shortcut_overhead.py
    python benchmarks/shortcut_overhead.py --rounds 9 model=scenes model.steps=20

Latents of a batch are drawn under each shortcut in turn. `around` is the share of a draw that is
outside the UNet's own calls: loop, guidance, scheduler, text encoders, what is kept between calls.
`over none` is what of it a shortcut adds to the plain loop's, as a share of the draw; `a call` is a
whole call through the parts over diffusers' own, alternated. Exits 1 above 3 % of either.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from _scenes import configure

from sdxl.config.plugins import backend_of
from sdxl.model import prompts
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source

WORST = 0.03
BATCH = 8
NAMES = ("none", "guidance_cutoff", "deepcache", "tgate", "deepcache_cutoff", "deepcache_tgate",
         "token_merging")  # fmt: skip


class Timed:
    """A sampler whose UNet calls are timed."""

    def __init__(self, words: list[str], name: str) -> None:
        config = configure([*words, "rules=open", f"shortcut={name}"])
        source = open_source(config.model, config.seed)
        chosen = prompts.load(config.dataset, BATCH, config.seed)
        self.sampler = Sampler(backend_of(config).open(config, {}), source, config, chosen)
        self.inside = 0.0
        stages: Any = self.sampler.stages
        self.parts, self.unet = stages.parts, stages.modules["unet"]
        if self.parts:
            self.parts._run = self._timed(self.parts._run)
        else:
            stages._unet = self._timed(stages._unet)

    def _timed(self, run: Any) -> Any:
        def timed(*given: Any, **words: Any) -> Any:
            began = time.process_time()
            found = run(*given, **words)
            self.inside += time.process_time() - began
            return found

        return timed

    def draw(self) -> tuple[float, float]:
        """Processor seconds of a batch's latents, and those outside the UNet's calls."""
        self.inside, began = 0.0, time.process_time()
        self.sampler.latents(range(BATCH))
        spent = time.process_time() - began
        return spent, spent - self.inside


def main() -> int:
    """Measure in rounds, print the table; 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("words", nargs="*", help="further words of run.py")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    timed = {name: Timed(asked.words, name) for name in NAMES}
    for each in timed.values():
        each.draw()
    rounds = []
    for number in range(asked.rounds):
        order = list(timed)[:: 1 if number % 2 else -1]
        rounds.append({name: timed[name].draw() for name in order})
    call = _whole_call(timed["deepcache"], asked.rounds)
    worst = call - 1
    print(f"{'shortcut':18}{'CPU s':>8}{'around':>9}{'over none':>11}")
    for name in NAMES:
        spent, around = (statistics.median(r[name][n] for r in rounds) for n in (0, 1))
        more = statistics.median((r[name][1] - r["none"][1]) / r[name][0] for r in rounds)
        worst = max(worst, more)
        print(f"{name:18}{spent:8.3f}{around / spent:9.2%}{more:11.2%}")
    print(f"a whole call in parts over diffusers' own: {call:.3f}")
    return int(worst > WORST)


def _whole_call(timed: Timed, rounds: int) -> float:
    """Median of paired ratios: a deep call through the parts over the module's own forward."""
    from sdxl.config.shortcuts import Step
    from sdxl.model import networks
    from sdxl.model.parts import Kept

    sampler = timed.sampler
    with torch.inference_mode():
        embeddings = sampler._embeddings(range(BATCH))
        sample, when = torch.cat([sampler._noise(range(BATCH))] * 2), torch.tensor(500.0)
        ways = {
            "parts": lambda: timed.parts(Step(True, keeps=True), sample, when, embeddings, Kept()),
            "own": lambda: networks.predict(timed.unet, sample, when, embeddings),
        }
        ratios = []
        for number in range(1 + 4 * rounds):
            spent = {}
            for name in list(ways)[:: 1 if number % 2 else -1]:
                began = time.process_time()
                ways[name]()
                spent[name] = time.process_time() - began
            ratios.append(spent["parts"] / spent["own"])
    return statistics.median(ratios[1:])


if __name__ == "__main__":
    sys.exit(main())
