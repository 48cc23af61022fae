"""The stage `qat`: a quantized UNet learns to predict what its unquantized baseline predicts.

It starts from the checkpoint that `quantize.py` makes of the same settings and keeps its scales;
the weights of the quantized layers move. Rows are latents with noise at the timesteps that the
sampler visits, half of them under the negative prompt, as guidance uses both halves alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdxl.config.plugins import TrainingStage
from sdxl.config.schema import Format
from sdxl.config.schema.train import TrainConfig
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.progress import Progress
from sdxl.model import schedulers
from sdxl.model.checkpoint import TUNED
from sdxl.model.components import torch_device, torch_dtype
from sdxl.model.sources import open_source
from sdxl.quant import build
from sdxl.training import launch, teachable, use
from sdxl.training.data import embed, examples
from sdxl.training.loop import Batch, trained_rows
from sdxl.training.stages import fake_quant

UNGUIDED = 0.5
"""Share of the rows under the negative prompt."""
_HELD_BACK = 64
_PIECE = 16


def folder_of(config: TrainConfig) -> Path:
    """Where this setting's training lives: a folder for each checkpoint that it starts from."""
    quant = config.quant
    if quant.format is Format.none:
        raise UserError(
            "there is nothing to recover: the UNet is not quantized", f"quant={quant.name}",
            "a recipe", "quant=int8 quant_level=3",
        )  # fmt: skip
    if quant.tuned:
        raise UserError(
            "`quant.tuned` would be ignored: training starts from the plain checkpoint",
            quant.tuned, "quant.tuned=null",
        )  # fmt: skip
    name = f"qat-{quant.name}-{quant.level:g}-{build.key_of(config)[:8]}"
    return store.root() / "training" / config.train.run / name


def outcome(config: TrainConfig, made: Path) -> dict[str, Any]:
    """Where the result is, and how it is measured."""
    measure = drawing(config, [made])
    launch.say(f"to measure it, with the same recipe: {measure}")
    return {"tuned": str(made), "measure": measure}


def drawing(config: TrainConfig, made: Sequence[Path]) -> str:
    """The line that draws with trained checkpoints, whose recipe it repeats."""
    return use.line(config, "quant.tuned", made, *use.recipe(config))


class Student(nn.Module):
    """Mean squared distance of the rounded UNet's prediction to its baseline's.

    The baseline is none of its modules: it has no part in what is trained, averaged or kept.
    """

    def __init__(self, unet: nn.Module, baseline: nn.Module) -> None:
        super().__init__()
        self.unet, self.target = unet, partial(predict, baseline)

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Inputs as `predict` takes them."""
        with torch.no_grad():
            target = self.target(**inputs).float()
        return {"loss": (predict(self.unet, **inputs).float() - target).square().mean()}


def predict(
    unet: Any, noisy: Tensor, timestep: Tensor, hidden: Tensor, pooled: Tensor, time_ids: Tensor
) -> Tensor:
    """Noise (B, 4, h, w) in latents of the same shape; timestep (B,), hidden (B, 77, D)."""
    found: Tensor = unet(
        noisy, timestep, encoder_hidden_states=hidden,
        added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids}, return_dict=False,
    )[0]  # fmt: skip
    return found


class Stage:
    """Trains the weights of the quantized layers."""

    eval_count = _HELD_BACK

    def __init__(self, config: TrainConfig) -> None:
        source = open_source(config.model, config.seed)
        scheduler = teachable.scheduler_of(source)
        self.alphas = scheduler.alphas_cumprod.float()
        with Progress("train=qat") as progress:
            self.made = build.prepare(config, progress.report)
        self.examples = examples.open_examples(config)
        self.count = trained_rows(self.examples.count, _HELD_BACK)
        dtype, cpu = torch_dtype(config.precision.unet), torch.device("cpu")
        plain = source.component("unet", dtype, cpu)
        baseline = source.component("unet", dtype, cpu)
        self.baseline: Any = nn.Module.float(baseline).requires_grad_(False)
        self.module = Student(fake_quant.student(plain, self.made.path), self.baseline)
        visited = schedulers.schedule_of(config.scheduler, config.model.steps, source).timesteps
        self.timesteps = torch.tensor(visited).long()
        self.identity = {
            "checkpoint": self.made.manifest.key,
            "data": self.examples.identity,
            "unconditional": embed.unconditional(config.model),
            "timesteps": self.timesteps.tolist(),
            "schedule": teachable.schedule(scheduler),
        }
        device = torch_device(config.model.device)
        self.start = self._distance(self.module.unet.to(device), device)

    def batch(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Noisy latents and their conditions."""
        chance = batch.draw("timestep", uniform=True)
        return self._given(
            batch.rows,
            self.timesteps[(chance * len(self.timesteps)).long()],
            batch.draw("dropped", uniform=True) < UNGUIDED,
            lambda *shape: batch.draw("noise", *shape),
            device,
        )

    def _given(
        self, rows: np.ndarray, timestep: Tensor, dropped: Tensor, noise: Any, device: torch.device
    ) -> dict[str, Any]:
        latents, hidden, pooled, sizes = self.examples.rows(rows)
        none_hidden, none_pooled = (part[embed.NEGATIVE] for part in self.examples.none)
        hidden[dropped], pooled[dropped] = none_hidden, none_pooled
        alpha = self.alphas[timestep][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise(*latents.shape[1:])
        given = {"noisy": noisy, "timestep": timestep, "hidden": hidden, "pooled": pooled,
                 "time_ids": sizes}  # fmt: skip
        self.baseline.to(device)
        return {name: value.to(device) for name, value in given.items()}

    def evaluate(self, device: torch.device) -> tuple[dict[str, float], Any]:
        """Distance to the baseline on rows held back, and the share of it that is gone."""
        now = self._distance(self.module.unet, device)
        return {"distance": now, "distance_before": self.start, "gone": 1 - now / self.start}, None

    @torch.no_grad()
    def _distance(self, unet: Any, device: torch.device) -> float:
        """Mean squared difference over held-back rows, timesteps spread evenly."""
        total = 0.0
        generator = torch.Generator().manual_seed(0)
        for start in range(0, _HELD_BACK, _PIECE):
            rows = self.count + np.arange(start, start + _PIECE)
            places = torch.arange(start, start + _PIECE)
            given = self._given(
                rows,
                self.timesteps[places % len(self.timesteps)],
                places % 2 == 1,
                lambda *shape: torch.randn((_PIECE, *shape), generator=generator),
                device,
            )
            target = predict(self.baseline, **given)
            total += float((predict(unet, **given).float() - target).square().mean())
        return total * _PIECE / _HELD_BACK

    def export(self, folder: Path) -> None:
        """The starting checkpoint with the trained weights; `quant.tuned` reads it."""
        fake_quant.write(self.module.unet, self.made.path, folder)
        facts = {"checkpoint": self.made.manifest.key, "settings": self.made.manifest.settings}
        (folder / TUNED).write_text(json.dumps(facts, indent=1) + "\n")


STAGE = TrainingStage(Stage, folder_of, outcome=outcome, drawing=drawing)
