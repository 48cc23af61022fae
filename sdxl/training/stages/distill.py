"""The stage `distill`: a student of few steps learns the leaps that its teacher makes in many.

The teacher's guided path from noise to picture is cut into `train.student_steps` pieces; the
student, which begins as a copy, predicts the one Euler step that leads from each piece's start to
its end, guidance included (progressive distillation, Salimans and Ho 2022, arXiv:2202.00512, in one
round and without ever drawing data). It draws with guidance 1: one row of the UNet a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdxl.config import content_key
from sdxl.config.plugins import TrainingStage
from sdxl.config.schema import Format
from sdxl.config.schema.train import Distill, TrainConfig
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.types import Embeddings
from sdxl.model.networks import predict
from sdxl.model.sources import open_source
from sdxl.training import launch, use
from sdxl.training.data.embed import time_ids
from sdxl.training.data.trajectories import open_trajectories
from sdxl.training.loop import Batch, trained_rows
from sdxl.training.teachable import scheduler_of

_HELD_BACK = 64


def folder_of(config: TrainConfig) -> Path:
    """Where this model's student lives."""
    if config.quant.format is not Format.none:
        raise UserError(
            "`quant` would be ignored: the student is of the unquantized UNet",
            f"quant={config.quant.name}", "quant=none", "quant=none",
        )  # fmt: skip
    settings = config.train
    assert isinstance(settings, Distill)
    if settings.teacher_steps % settings.student_steps:
        raise UserError(
            "the teacher's steps cannot be shared out among the student's",
            f"train.teacher_steps={settings.teacher_steps} "
            f"train.student_steps={settings.student_steps}",
            "a multiple", f"train.teacher_steps={5 * settings.student_steps}",
        )  # fmt: skip
    key = content_key.key(open_source(config.model, config.seed).identity())
    name = f"distill-{config.model.name}-{settings.student_steps}-{key[:8]}"
    return store.root() / "training" / settings.run / name


def outcome(config: TrainConfig, made: Path) -> dict[str, Any]:
    """Where the student is, and how it is used."""
    words = drawing(config, [made])
    launch.say(f"to draw with it: {words}")
    return {"unet": str(made), "use": words}


def drawing(config: TrainConfig, made: Sequence[Path]) -> str:
    """The line that draws with students, in their steps and without guidance."""
    settings = config.train
    assert isinstance(settings, Distill)
    own = ("scheduler=euler", "scheduler.spacing=trailing",
           f"model.steps={settings.student_steps}", "model.guidance=1")  # fmt: skip
    instead = ("unet", "lora", "lora_scale", "steps", "guidance")
    return use.line(config, "model.unet", made, *own, without=instead)


class Leaper(nn.Module):
    """The error of a piece's end, in units of latents and noise together."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, start: Tensor, end: Tensor, sigmas: Tensor, timestep: Tensor, **told: Tensor
    ) -> dict[str, Tensor]:
        """start, end (B, 4, h, w) in the scheduler's units; the rest as `leap` takes it."""
        found = leap(self.unet, start, sigmas, timestep, Embeddings(**told))
        scale = (_wide(sigmas[:, 1]).square() + 1).sqrt()
        return {"loss": ((found - end) / scale).square().mean()}


def leap(unet: Any, start: Tensor, sigmas: Tensor, timestep: Tensor, told: Embeddings) -> Tensor:
    """One Euler step of the network, from `start` (B, 4, h, w) at sigmas[:, 0] to sigmas[:, 1].

    sigmas (B, 2); timestep (B,), of the first of them.
    """
    sigma, sigma_next = (_wide(each) for each in sigmas.unbind(1))
    predicted = predict(unet, start / (sigma.square() + 1).sqrt(), timestep, told).float()
    return start + (sigma_next - sigma) * predicted


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]


class Stage:
    """Trains the whole UNet on the teacher's pieces."""

    eval_count = _HELD_BACK

    def __init__(self, config: TrainConfig) -> None:
        assert isinstance(config.train, Distill)
        source = open_source(config.model, config.seed)
        predicts = scheduler_of(source).config.prediction_type
        if predicts != "epsilon":
            raise UserError(
                "the student's leap is that of models that predict noise",
                f"model={config.model.name}: {predicts}", "epsilon",
            )  # fmt: skip
        self.paths = open_trajectories(config)
        self.steps = config.train.student_steps
        self.count = trained_rows(self.paths.count, _HELD_BACK)
        self.size = (config.model.height, config.model.width)
        unet: Any = source.component("unet", torch.float32, torch.device("cpu"))
        self.module = Leaper(unet.requires_grad_(True).train())
        self.identity = {
            "model": content_key.key(source.identity()),
            "paths": self.paths.identity,
            "schedule": self.paths.schedule,
        }

    def batch(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Starts and ends of pieces, each of a path and a place drawn for it."""
        place = (batch.draw("piece", uniform=True) * self.steps).long()
        stops = self.paths.rows("stops", batch.rows)
        rows = torch.arange(len(stops))
        given = {
            "start": stops[rows, place],
            "end": stops[rows, place + 1],
            "sigmas": torch.stack([self.paths.sigmas[place], self.paths.sigmas[place + 1]], dim=1),
            "timestep": self.paths.timesteps[place],
            **self._conditions(batch.rows),
        }
        return {name: value.to(device) for name, value in given.items()}

    def _conditions(self, rows: np.ndarray) -> dict[str, Tensor]:
        found = {name: self.paths.rows(name, rows) for name in ("hidden", "pooled")}
        return {**found, "time_ids": time_ids(len(rows), *self.size)}

    @torch.no_grad()
    def evaluate(self, device: torch.device) -> tuple[dict[str, float], Any]:
        """Mean squared distance of the student's latents to the teacher's, on paths held back,
        and its share of the latents' variance."""
        rows = self.count + np.arange(_HELD_BACK)
        stops = self.paths.rows("stops", rows).to(device)
        parts = {name: value.to(device) for name, value in self._conditions(rows).items()}
        told = Embeddings(**parts)
        latents = stops[:, 0]
        for number, timestep in enumerate(self.paths.timesteps.tolist()):
            sigmas = self.paths.sigmas[number : number + 2].to(device).expand(len(rows), 2)
            at = torch.full((len(rows),), timestep, device=device)
            latents = leap(self.module.unet, latents, sigmas, at, told)
        distance = float((latents - stops[:, -1]).square().mean())
        return {"distance": distance, "share": distance / float(stops[:, -1].var())}, None

    def export(self, folder: Path) -> None:
        """The UNet in diffusers' form."""
        unet: Any = self.module.unet
        unet.save_pretrained(folder)


STAGE = TrainingStage(Stage, folder_of, outcome=outcome, drawing=drawing)
