"""The stage `joint`: the UNet and both text encoders together, from what `unet_large` has made.

Three things differ from the stages before it. The text encoders learn from the denoising, because
contrastive training alone leaves which colour is whose, and what stands where, too faint in the
states of single tokens. Noisy timesteps, where the places of solids are decided, weigh more: their
error is small beside the textures' and would hardly be heard. Scenes of two solids come twice as
often as single ones, and of three seldom. Captions are worded anew each time.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdxl.scenes import captions, world
from sdxl.schema_train import Training
from sdxl.training import scene_data, unet
from sdxl.training.loop import Batch

LAYOUT = 0.2
"""Signal-to-noise ratio below which timesteps weigh more, as its inverse root."""
REPEATS = {1: 4, 2: 8, 3: 1}
"""How often an epoch shows a scene of so many solids."""


class Painter(nn.Module):
    """Text encoders and UNet in one: the error of the predicted noise, told by token ids."""

    def __init__(self, network: nn.Module, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.denoiser = unet.Denoiser(network, layout=LAYOUT)
        self.first, self.second = first, second

    @property
    def unet(self) -> nn.Module:
        """What is exported as the UNet."""
        return self.denoiser.unet

    def forward(
        self, latents: Tensor, noise: Tensor, timestep: Tensor, first: Tensor, second: Tensor,
        time_ids: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """latents, noise (B, 4, h, w); timestep (B,); first, second: ids (B, 77)."""
        one = self.first(first, output_hidden_states=True)
        other = self.second(second, output_hidden_states=True)
        hidden = torch.cat([one.hidden_states[-2], other.hidden_states[-2]], dim=-1)
        found: dict[str, Tensor] = self.denoiser(
            latents, noise, timestep, hidden, other.text_embeds, time_ids
        )
        return found


class Stage(unet.Stage):
    """As `unet`, with text encoders that learn too, and more of the noisy timesteps."""

    power = 0.5

    def __init__(self, settings: Training, seed: int) -> None:
        super().__init__(settings, seed)
        self.scenes = [world.training_scene(seed, n) for n in range(settings.scenes)]
        self.rows = np.repeat(
            np.arange(len(self.scenes)), [REPEATS[len(scene.solids)] for scene in self.scenes]
        )
        self.count = len(self.rows)
        self.seed = seed
        self.tokenizers = scene_data.tokenizers(settings.run)

    def network(self) -> nn.Module:
        """The UNet of large pictures with the text encoders of the stage `clip`."""
        from diffusers import UNet2DConditionModel

        network: Any = UNet2DConditionModel.from_pretrained(
            scene_data.exported(self.run, "unet_large")
        )
        first, second = scene_data.text_encoders(self.run)
        for part in (first, second):
            part.requires_grad_(True)
        body = getattr(first, "text_model", first)  # transformers 5 has no such level
        for unused in (body.encoder.layers[-1], body.final_layer_norm):
            unused.requires_grad_(False)  # the penultimate state is what SDXL takes
        return Painter(network, first, second).train()

    def batch(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Latents, noise, timesteps and token ids, some of them of the unconditional texts."""
        rows = self.rows[batch.rows]
        chance = batch.draw("dropped", uniform=True).tolist()
        texts = [self._text(batch, *place) for place in enumerate(zip(rows, chance, strict=True))]
        first, second = (
            torch.from_numpy(ids) for ids in scene_data.token_ids(texts, self.tokenizers)
        )
        found = self.noised(batch, rows) | {"first": first, "second": second}
        return {name: value.to(device) for name, value in found.items()}

    def _text(self, batch: Batch, place: int, drawn: tuple[int, float]) -> str:
        row, chance = drawn
        if chance < unet.DROPPED:
            return scene_data.UNCONDITIONAL[int(chance >= unet.DROPPED / 2)]
        words = f"words/{self.seed}/{batch.step}/{batch.share.start + place}"
        return captions.describe(self.scenes[row], random.Random(words)).text

    def encoders(self) -> tuple[Any, Any]:
        """The text encoders as they are now."""
        module: Any = self.module
        return module.first, module.second

    def export(self, folder: Path) -> None:
        """UNet and text encoders in the folders of a pipeline."""
        module: Any = self.module
        module.unet.save_pretrained(folder / "unet")
        module.first.save_pretrained(folder / "text_encoder")
        module.second.save_pretrained(folder / "text_encoder_2")
