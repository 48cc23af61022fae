"""What a model is made of: the components, where they come from, dtype, device and scale."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from sdxl.config.schema import Device, DType
from sdxl.core.errors import UserError

Settings = dict[str, Any]
"""What a part's own JSON file says."""

COMPONENTS = ("text_encoder", "text_encoder_2", "unet", "vae")


class Source(Protocol):
    """Where tokenizers, scheduler and networks come from, one component at a time."""

    def tokenizers(self) -> tuple[Any, Any]:
        """The tokenizers of the two text encoders."""
        ...

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The configuration of each component, as in its config.json."""
        ...

    def scheduler(self) -> Any:
        """The model's own scheduler: its class and its settings."""
        ...

    def settings(self, part: str) -> Settings:
        """What scheduler_config.json (`scheduler`) or model_index.json (`pipeline`) says."""
        ...

    def component(self, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """One of `COMPONENTS`, in evaluation mode."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides the weights, for content keys."""
        ...


def notes_of(source: Any) -> list[str]:
    """What a record should say of where the weights come from; mostly nothing."""
    notes = getattr(source, "notes", None)
    return list(notes()) if notes else []


def torch_dtype(dtype: DType) -> torch.dtype:
    """fp32 -> torch.float32, and so on."""
    return {
        DType.fp32: torch.float32,
        DType.fp16: torch.float16,
        DType.bf16: torch.bfloat16,
    }[dtype]


def torch_device(device: Device) -> torch.device:
    """The asked device, or with `auto` the best one here; raises `UserError` if it is absent."""
    have = {
        Device.cuda: torch.cuda.is_available(),
        Device.mps: torch.backends.mps.is_available(),
    }
    if device is Device.auto:
        device = next((d for d, there in have.items() if there), Device.cpu)
    elif not have.get(device, True):
        raise UserError(
            f"there is no {device.value} device here",
            f"model.device={device.value}; torch {torch.__version__}",
            "cpu" + "".join(f", {d.value}" for d, there in have.items() if there),
            "model.device=auto",
        )
    return torch.device(device.value)


def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] -> latents as the UNet sees them, the mean where drawn."""
    encoded = vae.encode(pixels)
    drawn = getattr(encoded, "latent_dist", None)  # AutoencoderTiny gives plain latents
    return scale(drawn.mean if drawn is not None else encoded.latents, vae.config)


def moments(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] -> mean and log-variance (B, 2 C, h, w), not scaled.

    Raises `UserError` for a VAE that has only one latent for a picture.
    """
    drawn = getattr(vae.encode(pixels), "latent_dist", None)
    if drawn is None:
        raise UserError("this VAE has no moments", type(vae).__name__, "an AutoencoderKL")
    found: torch.Tensor = drawn.parameters
    return found


def of_moments(found: torch.Tensor, noise: torch.Tensor | None, config: Any) -> torch.Tensor:
    """Latents (B, C, h, w) as the UNet sees them, of moments; without noise, their means."""
    mean, log_variance = found.chunk(2, dim=1)
    if noise is not None:
        mean = mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise
    return scale(mean, config)


@torch.inference_mode()
def check_half(vae: Any) -> None:
    """Decode a piece of noise with an fp16 VAE whose configuration warns of it.

    Raises `UserError` if no picture comes out.
    """
    if vae.dtype is not torch.float16 or not getattr(vae.config, "force_upcast", True):
        return
    seeded = torch.Generator().manual_seed(0)
    drawn = torch.randn(1, vae.config.latent_channels, 16, 16, generator=seeded)
    latents = unscale(drawn.to(vae.device, vae.dtype), vae.config)
    image = vae.decode(latents, return_dict=False)[0]
    if not torch.isfinite(image).all() or image.min() == image.max():
        raise UserError(
            "this VAE draws NaN, Inf or one colour in fp16, as its config.json warns",
            "precision.vae=fp16, force_upcast true",
            "fp32 or bf16, or a VAE made for fp16",
            "precision.vae=fp32   # or model.vae=FOLDER",
        )


def scale(latents: torch.Tensor, config: Any) -> torch.Tensor:
    """The VAE's latents (B, C, h, w) as the UNet sees them; `unscale` undoes it."""
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return latents * config.scaling_factor
    centre, spread = (latents.new_tensor(v).view(1, -1, 1, 1) for v in (mean, std))
    return (latents - centre) * config.scaling_factor / spread


def unscale(latents: torch.Tensor, config: Any) -> torch.Tensor:
    """The sampler's latents as the VAE decodes them (diffusers' convention)."""
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is not None and std is not None:
        shape = (1, len(mean), 1, 1)
        std_t, mean_t = (
            torch.tensor(v, dtype=latents.dtype, device=latents.device).view(shape)
            for v in (std, mean)
        )
        return latents * std_t / config.scaling_factor + mean_t
    return latents / config.scaling_factor
