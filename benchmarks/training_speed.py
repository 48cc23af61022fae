"""Samples a processor second of our trainings and of diffusers' own loop, a step of each in turn.

    python benchmarks/training_speed.py [--steps 12] [--rounds 3] [--batch 8]

`finetune` (the whole UNet) and `lora` of the bundled model, and `sd2_tiny`. The rival is the loop
of diffusers' training examples: UNet2DConditionModel, DDPMScheduler, EMAModel, add_adapter for
LoRA, clipping, torch's AdamW with its defaults, rows from a DataLoader over tensors in memory,
where ours reads shards. `sd2_tiny` encodes its captions in the step, as train_text_to_image.py.
Both draw latents of moments, drop captions and weigh timesteps as the stage does. Processor seconds
count, since other work may run beside it; the roof is large matrix products in the same processor
seconds, measured between the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import _scenes
import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.training_utils import EMAModel, compute_snr
from hydra import compose, initialize_config_dir
from peft import LoraConfig
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from sdxl.config.choices import Weighting
from sdxl.config.load import load
from sdxl.core.paths import BUNDLED, ROOT
from sdxl.model import architecture, images
from sdxl.model.scenes import captions, render, world
from sdxl.training import loop, speed
from sdxl.training.data import shards
from sdxl.training.data.sharded import HIDDEN, POOLED, Shards
from sdxl.training.stages import finetune, lora, sd2_mlperf

STAGES = {"finetune": finetune, "lora": lora, "sd2_mlperf": sd2_mlperf}
SCALE = 0.18215
"""Of latents; its value does not change the work."""
AHEAD_S = 0.2
"""A pause after each of our steps, in which our thread reads ahead: that counts as ours."""


def configured(name: str, folder: Path, batch: int) -> Any:
    words = [f"train={name}", "model=scenes", f"train.shards={folder}", f"train.batch={batch}",
             "tracking=off", "train.decay_share=0", "train.evaluate_every=1000000000"]  # fmt: skip
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return load(compose("train", overrides=words))


def in_turn(given: Any, rival: Plain, steps: int) -> tuple[float, float, float]:
    """Processor seconds of a step, ours and the rival's, and our operations for each sample.

    Medians. A step of each in turn: what else the processor does meets both.
    """
    stage = STAGES[given.train.name].Stage(given)
    stage.evaluate = lambda _device: ({}, None)  # type: ignore[method-assign]
    stage.export = lambda _folder: None  # type: ignore[method-assign]
    meter = _InTurn(given.train, rival)
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(given.train, steps=steps + speed.WARM, checkpoint_s=1e9)
        loop.train(stage, settings, 0, Path(folder), lambda *_: None, meter=meter)
    mine, other = (statistics.median(each[speed.WARM :]) for each in (meter.mine, meter.other))
    return mine, other, meter.flop_per_sample


class _InTurn(speed.Meter):
    """Takes processor seconds, too, and lets the rival do a step after each of ours."""

    def __init__(self, settings: Any, rival: Plain) -> None:
        super().__init__(settings)
        self.rival, self.mine, self.other = rival, list[float](), list[float]()
        self.before = time.process_time()

    def took(self, given: Any, step_s: float, wait_s: float) -> None:
        super().took(given, step_s, wait_s)
        time.sleep(AHEAD_S)
        self.mine.append(time.process_time() - self.before)
        fixed = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)
        self.other.append(self.rival.seconds())
        torch.use_deterministic_algorithms(fixed)
        self.before = time.process_time()


@dataclass
class Row:
    """All rows of the shards in memory, N of them."""

    moments: torch.Tensor  # (N, 8, h, w)
    hidden: torch.Tensor  # (N, 77, D)
    pooled: torch.Tensor  # (N, P)
    ids: torch.Tensor  # (N, 77), of the second tokenizer


def in_memory(given: Any, folder: Path) -> Row:
    """The rows as a script that knows them would keep them."""
    opened = Shards(given, str(folder))
    read = [opened._read(sample) for sample in opened.samples]
    parts = (torch.stack([each[name] for each in read]) for name in (HIDDEN, POOLED))
    tokenizer = CLIPTokenizer.from_pretrained(BUNDLED / "tokenizer_2")
    texts = opened.texts(np.arange(opened.count))
    ids = tokenizer(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]
    moments = torch.stack([each["moments"][0] for each in read])
    return Row(moments, *parts, torch.tensor(ids))


class Plain:
    """The loop of diffusers' examples, on one of our stages' work."""

    def __init__(self, given: Any, rows: Row) -> None:
        settings = self.settings = given.train
        self.sd2 = settings.name == "sd2_mlperf"
        torch.manual_seed(0)
        if self.sd2:
            self.unet: Any = UNet2DConditionModel(**architecture.SD2[settings.network.value])
        else:
            self.unet = UNet2DConditionModel.from_pretrained(BUNDLED, subfolder="unet").float()
        if settings.name == "lora":
            targets = ["to_q", "to_k", "to_v", "to_out.0"]
            self.unet.requires_grad_(False)
            self.unet.add_adapter(LoraConfig(r=settings.rank, lora_alpha=settings.rank,
                                             target_modules=targets))  # fmt: skip
        self.unet.train()
        self.trained = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=settings.lr, betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay, eps=settings.epsilon,
        )  # fmt: skip
        self.average = EMAModel(self.trained, decay=settings.ema) if settings.ema else None
        kind = "v_prediction" if self.sd2 else "epsilon"
        self.scheduler = DDPMScheduler(**{**architecture.SCHEDULER, "prediction_type": kind})
        encoder = CLIPTextModelWithProjection.from_pretrained(BUNDLED / "text_encoder_2")
        self.encoder = getattr(encoder, "text_model", encoder).float().eval().requires_grad_(False)
        told = rows.ids if self.sd2 else rows.hidden
        data = TensorDataset(rows.moments, told, rows.pooled)
        self.loader = DataLoader(data, settings.batch, shuffle=True, drop_last=True)
        self.rows = self._endless()

    def seconds(self) -> float:
        """Processor seconds of the next step."""
        began = time.process_time()
        self._step(*next(self.rows))
        return time.process_time() - began

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self.loader

    def _step(self, moments: torch.Tensor, hidden: torch.Tensor, pooled: torch.Tensor) -> None:
        settings, scheduler = self.settings, self.scheduler
        latents = DiagonalGaussianDistribution(moments).sample() * SCALE
        noise, count = torch.randn_like(latents), len(latents)
        steps = torch.randint(0, scheduler.config.num_train_timesteps, (count,))
        if self.sd2:
            with torch.no_grad():
                hidden = self.encoder(input_ids=hidden).last_hidden_state
        if settings.dropped:
            kept = torch.rand(count) >= settings.dropped
            hidden, pooled = hidden * kept[:, None, None], pooled * kept[:, None]
        side = 8 * latents.shape[-1]
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * count, dtype=torch.float32)
        added = {"text_embeds": pooled, "time_ids": sizes}
        predicted = self.unet(
            scheduler.add_noise(latents, noise, steps), steps, encoder_hidden_states=hidden,
            added_cond_kwargs=None if self.sd2 else added, return_dict=False,
        )[0]  # fmt: skip
        target = scheduler.get_velocity(latents, noise, steps) if self.sd2 else noise
        loss = functional.mse_loss(predicted, target, reduction="none").mean((1, 2, 3))
        if settings.weighting is Weighting.min_snr:
            ratio = compute_snr(scheduler, steps)
            loss = loss * ratio.clamp(max=5.0) / ratio
        loss.mean().backward()
        if settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.trained, settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.step(self.trained)
        loss.mean().item()


def roof() -> float:
    """Operations in a processor second of large matrix products, as these processors do now."""
    one, other = torch.randn(2, 1024, 1024)
    began = time.process_time()
    for _ in range(8):
        one @ other
    return 8 * 2 * 1024**3 / (time.process_time() - began)


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
            memory, found = in_memory(config, folder), []
            for _ in range(given.rounds):
                *both, flop = in_turn(config, Plain(config, memory), given.steps)
                found.append((*both, roof()))
            one, other, peak = (float(np.median(each)) for each in zip(*found, strict=True))
            rows[name] = {
                "samples_per_cpu_s": given.batch / one, "diffusers": given.batch / other,
                "ratio": float(np.median(ratios := [b / a for a, b, _ in found])), "ratios": ratios,
                "gflop_per_sample": flop / 1e9,
                "share_of_roof": flop * given.batch / one / peak,
                "share_of_roof_diffusers": flop * given.batch / other / peak,
            }  # fmt: skip
            print(f"{name}: {rows[name]}", file=sys.stderr)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
