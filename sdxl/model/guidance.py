"""Guidance: a second UNet row for each picture, or an embedding of its scale beside the only one.

A UNet with `time_cond_proj_dim` (latent consistency models) was distilled under guidance: the scale
is an input, and the negative prompt is none.
"""

from __future__ import annotations

import torch

from sdxl.config import schema, shortcuts
from sdxl.core.errors import UserError
from sdxl.model.components import Source
from sdxl.model.sources import shapes_source


def width(source: Source) -> int | None:
    """Length of the embedding that the model's UNet takes; None: it takes none."""
    found: int | None = source.configs["unet"].get("time_cond_proj_dim")
    return found


def rows_per_image(model: schema.Model, source: Source) -> int:
    """UNet rows of a picture: 2 with classifier-free guidance, else 1."""
    return 2 if model.guidance > 1 and width(source) is None else 1


def steps_of(
    shortcut: schema.Shortcut, model: schema.Model, source: Source, calls: int
) -> list[shortcuts.Step]:
    """What each of a batch's UNet calls computes."""
    guided = rows_per_image(model, source) == 2
    if isinstance(shortcut, schema.GuidanceCutoff) and not guided:
        raise UserError(
            f"`shortcut={shortcut.name}` would be ignored: the model has one UNet row a picture",
            f"model.guidance={model.guidance:g} and a UNet that takes its scale",
            "a model with guidance by a second row",
            "shortcut=none",
        )
    return shortcuts.steps_of(shortcut, calls, guided)


def zero_negative(model: schema.Model, source: Source) -> bool:
    """Whether zeros stand in place of a negative prompt's embeddings.

    So it is in diffusers without a negative prompt, unless the model says otherwise.
    """
    asked = model.negative_prompt is None
    return asked and bool(source.settings("pipeline").get("force_zeros_for_empty_prompt", True))


def rows_of(config: schema.Config) -> int:
    """`rows_per_image` of a configuration, whether its weights are here or not."""
    return rows_per_image(config.model, shapes_source(config.model, config.seed))


def embedding(scale: float, length: int) -> torch.Tensor:
    """Sinusoids (length,) of the scale above 1, in fp32.

    As in diffusers' `get_guidance_scale_embedding`, the frequencies end at 1 / 10,000.
    """
    half = length // 2
    frequency = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angle = torch.tensor(scale - 1, dtype=torch.float32) * 1000.0 * frequency
    found = torch.cat([angle.sin(), angle.cos()])
    return torch.nn.functional.pad(found, (0, length % 2))
