"""What a whole picture costs in four steps and in twenty: text encoders, UNet, VAE, the rest.

    OMP_NUM_THREADS=1 python benchmarks/few_steps.py --rounds 5

The bundled student (`model=scenes_4step`) and its teacher (`model=scenes`) in one process, batches
of 8 in turn, processor seconds an image; medians, and the median of the paired ratios. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from hydra import compose, initialize_config_dir

from sdxl.bench.generators import open_generator
from sdxl.config.load import load
from sdxl.config.registry import register
from sdxl.core.paths import CONF
from sdxl.model import prompts

BATCH = 8
MODELS = ("scenes", "scenes_4step")
PARTS = {"encode": "text encoders", "denoise": "UNet", "decode": "VAE"}


class Costs:
    """A model whose parts' processor seconds are counted."""

    def __init__(self, model: str) -> None:
        words = [
            f"model={model}",
            "dataset=scenes",
            f"limit={BATCH}",
            f"backend.batch_size={BATCH}",
        ]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = load(compose("run", words), words)
        asked = prompts.load(config.dataset, config.limit, config.seed)
        self.generator: Any = open_generator(config, {}, asked)
        self.spent: Counter[str] = Counter()
        for name in PARTS:
            setattr(self.generator.stages, name, self._counted(name))

    def _counted(self, name: str) -> Any:
        work = getattr(self.generator.stages, name)

        def counted(*given: Any, **named: Any) -> Any:
            began = time.process_time()
            found = work(*given, **named)
            self.spent[name] += time.process_time() - began
            return found

        return counted

    def batch(self) -> dict[str, float]:
        """Processor seconds an image, by part."""
        self.spent.clear()
        began = time.process_time()
        self.generator.generate(list(range(BATCH)))
        whole = time.process_time() - began
        found = {**{name: self.spent[name] for name in PARTS}, "whole": whole}
        return {name: seconds / BATCH for name, seconds in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    register()
    models = {name: Costs(name) for name in MODELS}
    for each in models.values():
        each.batch()
    rounds = [{name: each.batch() for name, each in models.items()} for _ in range(chosen.rounds)]
    result: dict[str, Any] = {"rounds": chosen.rounds, "threads": torch.get_num_threads()}
    print("| CPU seconds an image | 20 steps | 4 steps | ratio |\n|---|---|---|---|")
    for part in (*PARTS, "whole"):
        one, few = ([each[name][part] for each in rounds] for name in MODELS)
        ratios = [a / b for a, b in zip(one, few, strict=True)]
        twenty, four, ratio = (statistics.median(values) for values in (one, few, ratios))
        print(f"| {PARTS.get(part, part)} | {twenty:.4f} | {four:.4f} | {ratio:.2f} |")
        result[part] = {"twenty": twenty, "four": four, "ratio": ratio, "ratios": ratios}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
