"""The stage `finetune`: a model's own UNet goes on training, on shards of latents or on scenes.

Loss and noise are those of the stage `unet`; the result is a diffusers UNet for `model.unet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdxl.config import content_key
from sdxl.config.choices import Prediction
from sdxl.config.plugins import TrainingStage
from sdxl.config.schema import Format
from sdxl.config.schema.train import Finetune, TrainConfig
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.model.components import Source
from sdxl.model.sources import open_source, shapes_source
from sdxl.training import average, launch, teachable, use
from sdxl.training.data import embed, examples
from sdxl.training.loop import Batch, trained_rows
from sdxl.training.stages.denoising import Denoiser

_HELD_BACK = 16


def folder_of(config: TrainConfig) -> Path:
    """Where this model's training lives."""
    if config.quant.format is not Format.none:
        raise UserError(
            "`quant` would be ignored: fine-tuning is of the unquantized UNet",
            f"quant={config.quant.name}", "quant=none, or train=qat", "quant=none",
        )  # fmt: skip
    opened = shapes_source if config.plan else open_source  # a plan needs no weights
    key = content_key.key(opened(config.model, config.seed).identity())
    name = f"finetune-{config.model.name}-{key[:8]}"
    return store.root() / "training" / config.train.run / name


def plan(config: TrainConfig) -> dict[str, Any]:
    """Parameters and the memory that they take; activations come on top."""
    source = shapes_source(config.model, config.seed)
    unet = source.component("unet", torch.float32, torch.device("meta"))
    count = sum(p.numel() for p in unet.parameters())
    state = average.state_bytes(count, config.train.ema)
    return {"parameters": count, "state_gib": round(state / 2**30, 2)}


def outcome(config: TrainConfig, made: Path) -> dict[str, Any]:
    """Where the result is, and how it is used."""
    words = drawing(config, [made])
    launch.say(f"to draw with it: {words}")
    return {"unet": str(made), "use": words}


def drawing(config: TrainConfig, made: Sequence[Path]) -> str:
    """The line that draws with UNets that it has left; a LoRA that they began with is in them."""
    instead = ("unet", "lora", "lora_scale")
    return use.line(config, "model.unet", made, *told_apart(config), without=instead)


def told_apart(config: TrainConfig) -> list[str]:
    """What a run must be told of a UNet that learnt to predict something else than it did."""
    assert isinstance(config.train, Finetune)
    wanted = config.train.prediction
    return [] if wanted is None else [f"scheduler.prediction_type={wanted.value}"]


def _prediction(config: TrainConfig, own: str) -> Prediction:
    """What the UNet is to predict; raises `UserError` for what there is no loss for."""
    assert isinstance(config.train, Finetune)
    found = config.train.prediction or own
    if found == Prediction.sample:
        raise UserError(
            "there is no loss for models that predict the picture",
            f"model={config.model.name}: {own}", "epsilon or v_prediction",
            "train.prediction=v_prediction",
        )  # fmt: skip
    return Prediction(found)


class Stage:
    """Trains the whole UNet."""

    eval_count = _HELD_BACK

    def __init__(self, config: TrainConfig) -> None:
        assert isinstance(config.train, Finetune)
        self.settings = config.train
        self.size = config.model.height // 8, config.model.width // 8
        self.examples = examples.open_examples(config)
        # Not where captions are encoded: which attention runs is a switch of all threads.
        self.reads_ahead = getattr(self.examples, "embedded", False)
        self.count = trained_rows(self.examples.count, _HELD_BACK)
        source = open_source(config.model, config.seed)
        scheduler = teachable.scheduler_of(source)
        unet = self._unet(config, source)
        if config.train.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        denoiser = Denoiser(
            unet.train(), weighting=config.train.weighting,
            prediction=_prediction(config, scheduler.config.prediction_type),
        )  # fmt: skip
        denoiser.alphas = scheduler.alphas_cumprod  # the model's own schedule
        self.module: Any = denoiser
        self.steps = len(scheduler.alphas_cumprod)
        self.identity = {
            "model": content_key.key(source.identity()),
            "data": self.examples.identity,
            "unconditional": embed.unconditional(config.model),
            "schedule": teachable.schedule(scheduler),
        }

    def _unet(self, config: TrainConfig, source: Source) -> Any:
        """The network, with gradients where it is trained."""
        unet = source.component("unet", torch.float32, torch.device("cpu"))
        return unet.requires_grad_(True)

    def batch(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Latents, noise, timesteps and embeddings, some of them unconditional."""
        posterior = batch.draw("posterior", 4, *self.size) if self.examples.moments else None
        given = self._given(batch.rows, batch.draw("dropped", uniform=True), posterior)
        given["noise"] = batch.draw("noise", *given["latents"].shape[1:])
        given["timestep"] = (batch.draw("timestep", uniform=True) * self.steps).long()
        return {name: value.to(device) for name, value in given.items()}

    def _given(
        self, rows: np.ndarray, chance: Tensor, posterior: Tensor | None = None
    ) -> dict[str, Tensor]:
        latents, hidden, pooled, sizes = self.examples.rows(rows, posterior)
        for kind, (none_hidden, none_pooled) in enumerate(zip(*self.examples.none, strict=True)):
            half = self.settings.dropped / 2
            dropped = (chance >= kind * half) & (chance < (kind + 1) * half)
            hidden[dropped], pooled[dropped] = none_hidden, none_pooled
        return {"latents": latents, "hidden": hidden, "pooled": pooled, "time_ids": sizes}

    @torch.no_grad()
    def evaluate(self, device: torch.device) -> tuple[dict[str, float], Any]:
        """The error of what it predicts on rows held back, at timesteps spread evenly."""
        given = self._given(self.count + np.arange(_HELD_BACK), torch.ones(_HELD_BACK))
        generator = torch.Generator().manual_seed(0)
        given["noise"] = torch.randn(given["latents"].shape, generator=generator)
        given["timestep"] = (torch.arange(_HELD_BACK) + 0.5) / _HELD_BACK * self.steps
        given["timestep"] = given["timestep"].long()
        found = self.module(**{name: value.to(device) for name, value in given.items()})
        return {"held_back_error": float(found["error"])}, None

    def export(self, folder: Path) -> None:
        """The UNet in diffusers' form."""
        self.module.unet.save_pretrained(folder)


STAGE = TrainingStage(Stage, folder_of, plan, outcome, drawing=drawing)
