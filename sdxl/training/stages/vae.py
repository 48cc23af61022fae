"""The stage `vae`: pictures to 4 x (size/8) x (size/8) latents and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdxl.config.plugins import TrainingStage
from sdxl.config.schema.train import Training
from sdxl.core.errors import UserError
from sdxl.model import architecture
from sdxl.quality.scenes.networks import to_tensor
from sdxl.training import machine
from sdxl.training.data import scene_data
from sdxl.training.data.encoded import uint8
from sdxl.training.loop import Batch, trained_rows

KL_WEIGHT = 1e-5
EDGE_WEIGHT = 1.0
LATENT_STD = 1 / architecture.SCENES["vae"]["scaling_factor"]
"""SDXL's latents, divided by the scaling factor, have unit variance; ours are made so."""
CROP = 64
"""Pixels of the squares that it sees first, mostly from the middle, where the solids are."""
WHOLE = 0.4
"""Share of the steps, at the end, with whole pictures, as norms and attention will see."""
_HELD_BACK = 64


class Autoencoder(nn.Module):
    """Losses of the autoencoder: pixels, edges, and a little of the latents' divergence."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        self.vae: Any = AutoencoderKL(**architecture.SCENES["vae"])

    def forward(self, pixels: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """pixels (B, 3, H, W) in -1..1; noise (B, 4, H/8, W/8) samples the latents."""
        latents = self.vae.encode(pixels).latent_dist
        made = self.vae.decode(latents.mean + latents.std * noise).sample.float()
        table = pixels.flatten(2).median(-1).values[:, :, None, None]
        weight = 1 + 3 * (pixels - table).abs().amax(1, keepdim=True)
        pixel = ((made - pixels).abs() * weight).mean()
        edge = sum(_edges(made - pixels, step) for step in (1, 2, 4))
        kl = latents.kl().mean() / latents.mean[0].numel()
        return {
            "loss": pixel + EDGE_WEIGHT * edge + KL_WEIGHT * kl,
            "pixel": pixel,
            "kl": kl,
        }


def _edges(difference: Tensor, step: int) -> Tensor:
    """Mean absolute difference of neighbours at a distance."""
    small = functional.avg_pool2d(difference, step) if step > 1 else difference
    across = (small[..., :, 1:] - small[..., :, :-1]).abs().mean()
    return across + (small[..., 1:, :] - small[..., :-1, :]).abs().mean()


class Stage:
    """Trains the autoencoder on rendered scenes."""

    identity = scene_data.IDENTITY

    eval_count = _HELD_BACK

    def __init__(self, settings: Training, seed: int) -> None:
        self.count = trained_rows(settings.scenes, _HELD_BACK)
        torch.manual_seed(seed)
        self.module = Autoencoder()
        self.pictures = scene_data.pictures(seed, settings.scenes, settings.size)
        self.squares = settings.steps - int(WHOLE * settings.steps)
        self.every = settings.size**2 // min(CROP, settings.size) ** 2
        processes = machine.processes()
        if processes > 1 and settings.batch % (processes * self.every):
            raise UserError(
                "whole pictures do not divide among the processes",
                f"train.batch={settings.batch}, {processes} processes",
                f"a multiple of {processes * self.every}: one row in {self.every} is shown whole",
            )

    def batch(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Squares of pictures, later whole ones, as many pixels; and noise for their latents."""
        size = self.pictures.shape[1]
        side = size if batch.step >= self.squares else min(CROP, size)
        every = self.every if side > CROP else 1  # as many pixels in a step, whole or in squares
        corners = batch.draw("corner", 2, 2, uniform=True).mean(1) * (size - side)
        squares = [
            self.pictures[row, top : top + side, left : left + side]
            for row, (top, left) in zip(batch.rows, corners.round().int().tolist(), strict=True)
        ][::every]
        noise = batch.draw("latents", 4, side // 8, side // 8)[::every]
        return {"pixels": to_tensor(np.stack(squares)).to(device), "noise": noise.to(device)}

    @torch.no_grad()
    def evaluate(self, device: torch.device) -> tuple[dict[str, float], Any]:
        """PSNR of pictures held back, and a few of them above their reconstructions."""
        vae: Any = self.module.vae
        held = self.pictures[self.count :]
        pixels = to_tensor(held).to(device)
        made = uint8(vae.decode(vae.encode(pixels).latent_dist.mean).sample)
        error = np.mean((made.astype(float) - held) ** 2, axis=(1, 2, 3))
        rows = [np.concatenate(list(images[:8]), axis=1) for images in (held, made)]
        return {"psnr_db": float(np.mean(10 * np.log10(255**2 / error)))}, np.concatenate(rows)

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """The VAE with latents of mean 0 and SDXL's spread, in diffusers' form."""
        import copy

        vae: Any = copy.deepcopy(self.module.vae)
        device = next(vae.parameters()).device
        sample = to_tensor(self.pictures[:512]).to(device)
        normalize(vae, torch.cat([vae.encode(part).latent_dist.mean for part in sample.split(64)]))
        vae.save_pretrained(folder)


@torch.no_grad()
def normalize(vae: Any, latents: Tensor) -> None:
    """Move each latent channel to mean 0 and `LATENT_STD`, inside the 1x1 convolutions.

    The pictures stay what they were: the decoder's first convolution undoes the change.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    gain = LATENT_STD / std
    channels = len(mean)
    encode, decode = vae.quant_conv, vae.post_quant_conv
    encode.weight[:channels] *= gain[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - mean) * gain
    encode.bias[channels:] += 2 * gain.log()  # log variances
    decode.bias += (decode.weight[:, :, 0, 0] * mean).sum(1)
    decode.weight /= gain[None, :, None, None]


STAGE = TrainingStage(lambda config: Stage(config.train, config.seed), scene_data.folder_of)
