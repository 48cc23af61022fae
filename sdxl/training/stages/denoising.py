"""What a UNet is trained for: the noise in latents, told by captions (epsilon prediction).

Losses are weighted by min-SNR (Hang et al. 2023, arXiv:2303.09556), gamma 5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sdxl.model import architecture

DROPPED = 0.1
"""Share of the rows without caption."""
GAMMA = 5.0


def noise_schedule() -> Tensor:
    """Products of alphas of SDXL's 1000 steps."""
    scheduler = architecture.SCHEDULER
    roots = scheduler["beta_start"] ** 0.5, scheduler["beta_end"] ** 0.5
    betas = torch.linspace(*roots, scheduler["num_train_timesteps"]) ** 2
    return torch.cumprod(1 - betas, 0)


class Denoiser(nn.Module):
    """Weighted error of the noise that the UNet predicts.

    layout: signal-to-noise ratio below which timesteps weigh more, as its inverse root; 0: none.
    """

    def __init__(self, unet: nn.Module, layout: float = 0.0) -> None:
        super().__init__()
        self.unet, self.layout = unet, layout
        self.register_buffer("alphas", noise_schedule(), persistent=False)

    def forward(
        self, latents: Tensor, noise: Tensor, timestep: Tensor, hidden: Tensor, pooled: Tensor,
        time_ids: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """latents, noise (B, 4, h, w); timestep (B,); hidden (B, 77, D); pooled (B, P)."""
        alphas: Any = self.alphas
        alpha = alphas[timestep][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        added = {"text_embeds": pooled, "time_ids": time_ids}
        predicted = self.unet(
            noisy, timestep, encoder_hidden_states=hidden, added_cond_kwargs=added,
            return_dict=False,
        )[0]  # fmt: skip
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        ratio = (alpha / (1 - alpha)).flatten()
        weight = ratio.clamp(max=GAMMA) / ratio * (1 + self.layout / ratio).sqrt()
        return {"loss": (weight * error).mean(), "error": error.mean()}


class Told(nn.Module):
    """Text encoders and UNet in one: the error of the predicted noise, told by token ids."""

    def __init__(self, denoiser: Denoiser, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.first, self.second = denoiser, first, second

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


def unheard(encoder: nn.Module) -> list[nn.Module]:
    """What of the first text encoder reaches nobody: the penultimate state is what SDXL takes."""
    body: Any = getattr(encoder, "text_model", encoder)  # transformers 5 has no such level
    return [body.encoder.layers[-1], body.final_layer_norm]
