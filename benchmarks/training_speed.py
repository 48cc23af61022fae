"""Samples a second of our trainings beside a plain script of the same work, in turn.

    python benchmarks/training_speed.py [--steps 12] [--rounds 3] [--batch 8]

`finetune` and `lora` of the bundled model, and `sd2_tiny`; the plain script is the bare loop of
diffusers' examples: the same network, rows, loss and AdamW, clipping and average where ours has
them, on rows that lie in memory. Processor seconds count, since other work may run beside it; the
ratio is of medians of rounds, ours and the plain one in turn.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import _scenes
import numpy as np
import torch
from hydra import compose, initialize_config_dir

from sdxl.config.load import load
from sdxl.core.paths import ROOT
from sdxl.model import images
from sdxl.model.scenes import captions, render, world
from sdxl.training import average, loop, machine, speed
from sdxl.training.data import shards
from sdxl.training.stages import finetune, lora, sd2_mlperf

STAGES = {"finetune": finetune, "lora": lora, "sd2_mlperf": sd2_mlperf}
CPU = torch.device("cpu")


def configured(name: str, folder: Path, batch: int) -> Any:
    words = [f"train={name}", "model=scenes", f"train.shards={folder}", f"train.batch={batch}",
             "tracking=off", "train.decay_share=0", "train.evaluate_every=1000000000"]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return load(compose("train", overrides=words))


def ours(given: Any, steps: int) -> tuple[float, dict[str, float]]:
    """Processor seconds of a step, and the figures that a training shows."""
    stage = STAGES[given.train.name].Stage(given)
    stage.evaluate = lambda _device: ({}, None)  # type: ignore[method-assign]
    stage.export = lambda _folder: None  # type: ignore[method-assign]
    meter = _Timed(given.train)
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(given.train, steps=steps + speed.WARM, checkpoint_s=1e9)
        loop.train(stage, settings, 0, Path(folder), lambda *_: None, meter=meter)
    return statistics.median(meter.seconds[speed.WARM :]), meter.whole()


class _Timed(speed.Meter):
    """Takes processor seconds, too."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.seconds: list[float] = []
        self.before = time.process_time()

    def took(self, given: Any, step_s: float, wait_s: float) -> None:
        super().took(given, step_s, wait_s)
        now = time.process_time()
        self.seconds.append(now - self.before)
        self.before = now


def plain(given: Any, steps: int) -> float:
    """Processor seconds of a step of the plain loop."""
    settings = given.train
    stage = STAGES[settings.name].Stage(given)
    whole = settings.batch
    rows = []
    for n in range(steps + speed.WARM):
        chosen = loop.rows_of(n, whole, stage.count, 0)
        rows.append(stage.batch(loop.Batch(n, chosen, slice(0, whole), whole, 0), CPU))
    module, taken = stage.module, []
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    kept = average.begun(module, settings.ema)
    for step, given_rows in enumerate(rows, 1):
        began = time.process_time()
        loss = module(**given_rows)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.follow(kept, module, settings.ema, step)
        loss.item()
        taken.append(time.process_time() - began)
    return statistics.median(taken[speed.WARM :])


def written(folder: Path, count: int) -> Path:
    """Shards of moments and embeddings of rendered scenes."""
    (folder / "pictures").mkdir()
    for number, caption in enumerate(captions.training(count)):
        scene = world.training_scene(0, number)
        images.save(render.picture(scene, 128), folder / "pictures" / f"{number:05d}.png")
        (folder / "pictures" / f"{number:05d}.txt").write_text(caption.text)
    asked = shards.Asked(embeddings=True, moments=True)
    shards.write(_scenes.configure(["quant=none"]), folder / "pictures", folder / "shards", asked)
    return folder / "shards"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="measured in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    given = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = written(Path(temporary), 64)
        for name in given.stages:
            config = configured(name, folder, given.batch)
            pairs = []
            for _ in range(given.rounds):
                mine, figures = ours(config, given.steps)
                with machine.attention(CPU):
                    pairs.append((mine, plain(config, given.steps)))
            one, other = (float(np.median(each)) for each in zip(*pairs, strict=True))
            rows[name] = {
                "samples_per_cpu_s": given.batch / one, "plain": given.batch / other,
                "ratio": other / one, "share_of_peak": figures.get("share_of_peak"),
            }  # fmt: skip
            print(f"{name}: {rows[name]}", file=sys.stderr)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
