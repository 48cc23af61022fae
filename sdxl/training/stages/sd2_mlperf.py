"""The stage `sd2_mlperf`: MLPerf's training benchmark in our own form.

Only the UNet of Stable Diffusion 2 is trained, from random weights, to predict the velocity in
latents that are drawn of moments anew at every step; captions are never dropped, timesteps weigh
alike, nothing is averaged or clipped. `sd2_random` has the published shapes (16 groups in a norm,
as the reference) and made-up rows: for speed and memory. `sd2_tiny` learns scenes through the VAE
and the second text encoder of the model; its figures are our own, no official metric.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdxl.config import schema
from sdxl.config.choices import Prediction, Sd2Network
from sdxl.config.plugins import TrainingStage
from sdxl.config.schema.train import Sd2, TrainConfig
from sdxl.config.words import typed
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.model import architecture
from sdxl.quality import fast_scorer
from sdxl.training import average, speed
from sdxl.training.data.sharded import Shards
from sdxl.training.loop import Batch, trained_rows
from sdxl.training.series.parts import Tally
from sdxl.training.stages.denoising import Denoiser
from sdxl.training.stages.sd2_pictures import Pictures

TARGET_SAMPLES = 1_715_200
"""Mean of the reference's runs to the target at batch 256, round 5.0."""
PUBLISHED = {"H100": 135.7, "H200": 144.4, "B200": 274.0}
"""Samples a second of one GPU of eight, as logged in published runs of rounds 4.1 and 5.0."""
_OF_TINY: dict[str, Any] = {"shards": None, "dropped": 0.0} | {
    name: getattr(Sd2, name) for name in ("eval_prompts", "eval_steps", "eval_batch", "guidance")
}
"""Settings that made-up rows have no use for, as they are where nobody changes them."""
_HELD_BACK = 16
_MADE_UP = 512
"""Rows of `sd2_random`, made once: 195 MB."""


def folder_of(config: TrainConfig) -> Path:
    """Where this network's training lives."""
    settings = config.train
    assert isinstance(settings, Sd2)
    tiny = settings.network is Sd2Network.sd2_tiny
    if config.quant.format is not schema.Format.none:
        raise UserError(
            "`quant` would be ignored: the UNet is trained from random weights",
            f"quant={config.quant.name}",
            "quant=none",
            "quant=none",
        )
    if tiny and not isinstance(config.model, schema.ScenesModel):
        raise UserError(
            "`sd2_tiny` learns scenes, with the parts of the bundled model",
            f"model={config.model.name}",
            "model=scenes",
            "model=scenes",
        )
    if tiny and not settings.shards and not config.plan:
        raise UserError(
            "`sd2_tiny` learns from shards of moments",
            "train.shards=null",
            "FOLDER",
            "python -m sdxl shards IMAGES FOLDER model=scenes --moments",
        )
    for name, usual in {} if tiny else _OF_TINY.items():
        if (given := getattr(settings, name)) != usual:
            raise UserError(
                f"`train.{name}` would be ignored: the rows of `sd2_random` are made up",
                given,
                "sd2_tiny, or the setting as it is",
                typed(f"train.{name}", usual),
            )
    return store.root() / "training" / settings.run / f"sd2_mlperf-{settings.network.value}"


def plan(config: TrainConfig) -> dict[str, Any]:
    """Parameters, operations and memory; for the true shapes, hours by published rates."""
    settings = config.train
    assert isinstance(settings, Sd2)
    with torch.device("meta"):
        module = Denoiser(
            _unet(settings.network),
            weighting=settings.weighting,
            prediction=Prediction.v_prediction,
        )
        module.alphas = torch.empty(1000)
        side, width = _sizes(settings, config)
        row = torch.empty(1, 4, side, side)
        flop = speed.step_flop(
            module,
            {
                "latents": row,
                "noise": row,
                "timestep": torch.zeros(1, dtype=torch.long),
                "hidden": torch.empty(1, 77, width),
            },
        )
    count = sum(p.numel() for p in module.parameters())
    found: dict[str, Any] = {
        "parameters": count,
        "tflop_per_sample": round(flop / 1e12, 4),
        "state_gib": round(average.state_bytes(count, settings.ema) / 2**30, 2),
    }
    if settings.network is Sd2Network.sd2_random:
        hours = {name: TARGET_SAMPLES / rate / 3600 for name, rate in PUBLISHED.items()}
        found["hours_to_target"] = {
            f"{count} x {name}": round(value / count, 2)
            for name, value in hours.items()
            for count in (1, 8)
        }
    return found


def _unet(network: Sd2Network) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**architecture.SD2[network.value])


def _sizes(settings: Sd2, config: TrainConfig) -> tuple[int, int]:
    """Side of the latents, width of the text."""
    shapes = architecture.SD2[settings.network.value]
    tiny = settings.network is Sd2Network.sd2_tiny
    return (
        config.model.height // 8 if tiny else shapes["sample_size"],
        shapes["cross_attention_dim"],
    )


class Stage:
    """Trains the UNet from random weights."""

    eval_count = 0
    benchmark = "stable_diffusion_own"

    def __init__(self, config: TrainConfig) -> None:
        assert isinstance(config.train, Sd2)
        settings = self.settings = config.train
        self.side, self.width = _sizes(settings, config)
        torch.manual_seed(config.seed)
        denoiser = Denoiser(
            _unet(settings.network).train(),
            weighting=settings.weighting,
            prediction=Prediction.v_prediction,
        )
        self.module: Any = denoiser
        self.told: _Told | None = None
        self.identity: dict[str, Any] = {}
        self.parts_identity: str | None = None
        if settings.network is Sd2Network.sd2_tiny:
            self.told = _Told(config, settings)
            self.count = trained_rows(self.told.shards.count, _HELD_BACK)
            self.eval_count = settings.eval_prompts
            self.parts_identity = self.told.pictures.identity
            self.identity = {"data": self.told.shards.identity, "parts": self.parts_identity}
        else:
            self.count, self.reads_ahead = _MADE_UP, True
            self.identity = {"made_up": _MADE_UP}
            generator = torch.Generator().manual_seed(0)
            shapes = (4, self.side, self.side), (77, self.width)
            self.made_up = [torch.randn(_MADE_UP, *each, generator=generator) for each in shapes]

    def batch(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Latents of moments, noise, timesteps, and what the captions say."""
        shape = (4, self.side, self.side)
        if self.told:
            latents, hidden = self.told.rows(batch.rows, batch.draw("posterior", *shape))
        else:
            latents, hidden = (each[batch.rows] for each in self.made_up)
        if self.settings.dropped and self.told:
            untold = batch.draw("dropped", uniform=True) < self.settings.dropped
            hidden[untold] = self.told.pictures.text([""])
        given = {
            "latents": latents,
            "hidden": hidden,
            "noise": batch.draw("noise", *shape),
            "timestep": (batch.draw("timestep", uniform=True) * 1000).long(),
        }
        return {name: value.to(device) for name, value in given.items()}

    @torch.no_grad()
    def evaluate(self, _device: torch.device) -> tuple[dict[str, float], Any]:
        """FID and CLIP of our own judges of scenes, on pictures drawn by DDIM."""
        return self.told.judged(self.module.unet) if self.told else ({}, None)

    def export(self, folder: Path) -> None:
        """The UNet in diffusers' form."""
        self.module.unet.save_pretrained(folder)


class _Told:
    """Rows of shards, and the model's parts that tell and show them."""

    def __init__(self, config: TrainConfig, settings: Sd2) -> None:
        assert settings.shards
        self.config = config
        self.shards = Shards(config, settings.shards)
        if not self.shards.moments:
            raise UserError(
                "these shards hold latents, not moments",
                settings.shards,
                "KEY.npy (1, 8, h, w)",
                "python -m sdxl shards IMAGES FOLDER model=scenes --moments",
            )
        self.pictures = Pictures(config)

    def rows(self, rows: np.ndarray, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and text (B, 77, D)."""
        latents, texts = self.shards.told(rows, noise)
        return latents, self.pictures.text(texts)

    def judged(self, unet: Any) -> tuple[dict[str, float], Any]:
        """Scores by MLPerf's names, and the first eight pictures side by side."""
        assert isinstance(self.config.dataset, schema.ScenesDataset)
        self.pictures.unet, asked = unet, self.pictures.prompts
        drawn = self.pictures.draw(asked)
        scorer = fast_scorer.Scenes(self.config, asked)
        tally = Tally.empty(len(scorer.reference.mu))
        tally.add(range(len(asked)), *scorer.examined(range(len(asked)), drawn))
        return tally.scores(scorer.reference), np.concatenate(list(drawn[:8]), axis=1)


STAGE = TrainingStage(Stage, folder_of, plan, pictures=Pictures)
