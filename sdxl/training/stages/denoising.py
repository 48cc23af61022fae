"""What a UNet is trained for: what is noise in latents, told by captions (epsilon or v prediction).

Losses are weighted by min-SNR (Hang et al. 2023, arXiv:2303.09556), gamma 5, or not at all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sdxl.config.choices import Prediction, Weighting
from sdxl.model import architecture

GAMMA = 5.0


def noise_schedule() -> Tensor:
    """Products of alphas of SDXL's 1000 steps."""
    scheduler = architecture.SCHEDULER
    roots = scheduler["beta_start"] ** 0.5, scheduler["beta_end"] ** 0.5
    betas = torch.linspace(*roots, scheduler["num_train_timesteps"]) ** 2
    return torch.cumprod(1 - betas, 0)


class Denoiser(nn.Module):
    """Weighted error of what the UNet predicts: the noise, or the velocity.

    layout: signal-to-noise ratio below which timesteps weigh more, as its inverse root; 0: none.
    """

    def __init__(
        self, unet: nn.Module, layout: float = 0.0, weighting: Weighting = Weighting.min_snr,
        prediction: Prediction = Prediction.epsilon,
    ) -> None:  # fmt: skip
        super().__init__()
        self.unet, self.layout = unet, layout
        self.weighting, self.prediction = weighting, prediction
        self.register_buffer("alphas", noise_schedule(), persistent=False)

    def forward(
        self, latents: Tensor, noise: Tensor, timestep: Tensor, hidden: Tensor,
        pooled: Tensor | None = None, time_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """latents, noise (B, 4, h, w); timestep (B,); hidden (B, 77, D); pooled (B, P).

        A UNet without conditioning on sizes takes neither pooled nor time_ids.
        """
        alphas: Any = self.alphas
        alpha = alphas[timestep][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        added = {"text_embeds": pooled, "time_ids": time_ids}
        predicted = self.unet(
            noisy, timestep, encoder_hidden_states=hidden, added_cond_kwargs=added,
            return_dict=False,
        )[0]  # fmt: skip
        velocity = self.prediction is Prediction.v_prediction
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents if velocity else noise
        error = (predicted.float() - target).square().mean((1, 2, 3))
        weighted = self._weights((alpha / (1 - alpha)).flatten()) * error
        return {"loss": weighted.mean(), "error": error.mean()}

    def _weights(self, ratio: Tensor) -> Tensor:
        """Of timesteps with these signal-to-noise ratios (B,)."""
        weight = torch.ones_like(ratio)
        if self.weighting is Weighting.min_snr:
            velocity = self.prediction is Prediction.v_prediction
            # Of noise, the least of 1 and gamma / ratio, whose limit holds at a ratio of 0, too.
            weight = (
                ratio.clamp(max=GAMMA) / (ratio + 1) if velocity else (GAMMA / ratio).clamp(max=1)
            )
        return weight * (1 + self.layout / ratio).sqrt() if self.layout else weight


class Told(nn.Module):
    """Text encoders and UNet in one: the losses of `Denoiser`, told by token ids."""

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
