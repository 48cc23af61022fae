"""Pictures that a UNet of Stable Diffusion 2 draws: DDIM, as MLPerf's training benchmark asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdxl.config import content_key, schema
from sdxl.config.schema.train import Sd2, TrainConfig
from sdxl.core.errors import UserError
from sdxl.core.types import Prompt
from sdxl.model import architecture, components, images, prompts
from sdxl.model.components import Source, torch_device
from sdxl.model.sources import open_source
from sdxl.training.data import embed


class Pictures:
    """The model's parts but its UNet: what captions say, and what latents look like."""

    def __init__(self, config: TrainConfig) -> None:
        settings = config.train
        assert isinstance(settings, Sd2)
        self.settings, self.side = settings, config.model.height // 8
        self.at_once = settings.eval_batch
        self.source: Source = open_source(config.model, config.seed)
        self.identity = content_key.key(self.source.identity())
        self.device = torch_device(config.model.device)
        _, self.encoder = embed.text_encoders(self.source, self.device)
        _, self.tokenizer = self.source.tokenizers()
        self.prompts = _asked(config, settings.eval_prompts)
        self.unet: Any = None

    def load(self, folder: Path) -> None:
        """Draw with the UNet of a folder from now on."""
        from diffusers import UNet2DConditionModel

        network: Any = UNet2DConditionModel.from_pretrained(folder, local_files_only=True)
        self.unet = network.float().eval().to(self.device)

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Tensor:
        """The last states (N, 77, D) of the one encoder, after its final norm, on the CPU."""
        ids = torch.from_numpy(prompts.token_ids(texts, self.tokenizer)).to(self.device)
        body: Any = getattr(self.encoder, "text_model", self.encoder)
        found: Tensor = body(input_ids=ids).last_hidden_state
        return found.cpu()

    def draw(self, asked: Sequence[Prompt]) -> np.ndarray:
        """uint8 pictures (N, H, W, 3), each a function of the weights and its prompt alone."""
        starts = range(0, len(asked), self.at_once)
        return np.concatenate([self._drawn(asked[at : at + self.at_once]) for at in starts])

    @torch.no_grad()
    def _drawn(self, asked: Sequence[Prompt]) -> np.ndarray:
        """DDIM, eta 0, timesteps as the reference."""
        from diffusers import DDIMScheduler

        scheduler: Any = DDIMScheduler(
            **{**architecture.SCHEDULER, "prediction_type": "v_prediction"},
            clip_sample=False,
            set_alpha_to_one=False,
        )
        scheduler.set_timesteps(self.settings.eval_steps)
        device = self.unet.device
        text = self.text([prompt.text for prompt in asked]).to(device)
        both = torch.cat([self.text([""]).to(device).expand_as(text), text])
        latents = torch.stack([noise(prompt.index, self.side) for prompt in asked]).to(device)
        for timestep in scheduler.timesteps:
            without, told = self.unet(
                torch.cat([latents, latents]),
                timestep,
                encoder_hidden_states=both,
                return_dict=False,
            )[0].chunk(2)
            guided = without + self.settings.guidance * (told - without)
            latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        vae: Any = self.source.component("vae", torch.float32, device)
        pixels = vae.decode(components.unscale(latents, vae.config), return_dict=False)[0]
        return images.to_uint8(pixels.permute(0, 2, 3, 1).float().cpu().numpy())


def noise(number: int, side: int) -> Tensor:
    """The noise (4, side, side) that the picture of a caption begins with: of its number alone."""
    return torch.randn(4, side, side, generator=torch.Generator().manual_seed(number))


def _asked(config: TrainConfig, count: int) -> list[Prompt]:
    """As many captions as are asked for; raises `UserError` where the file has fewer."""
    if isinstance(config.dataset, schema.ScenesDataset) and config.dataset.prompts < count:
        config.dataset = dataclasses.replace(config.dataset, prompts=count)  # they are made up
    found = prompts.load(config.dataset)
    if len(found) < count:
        raise UserError(
            "there are fewer captions than an evaluation is asked to draw",
            f"{len(found)} in dataset={config.dataset.name}",
            f"train.eval_prompts={count}",
            f"train.eval_prompts={len(found)}",
        )
    return found[:count]
