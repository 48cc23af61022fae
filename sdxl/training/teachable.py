"""Which models can be trained on: the losses are of a schedule of noise and of plain guidance."""

from __future__ import annotations

from typing import Any

from sdxl.core.errors import UserError
from sdxl.model import guidance
from sdxl.model.components import Source

_SCHEDULE = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    *("rescale_betas_zero_snr", "prediction_type"),
)


def scheduler_of(source: Source) -> Any:
    """The model's own scheduler, which has the noise of every timestep as `alphas_cumprod`.

    Raises `UserError` for a model without one, and for a UNet that takes the guidance scale.
    """
    scheduler = source.scheduler()
    if not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(
            "a model in EDM's preconditioning cannot be trained here",
            f"its scheduler is {type(scheduler).__name__}",
            "a model with a schedule of noise, as SDXL",
        )
    if width := guidance.width(source):
        raise UserError(
            "a UNet that takes the guidance scale cannot be trained here",
            f"time_cond_proj_dim={width} in its unet/config.json",
            "a UNet without that input, as SDXL's",
        )
    return scheduler


def schedule(scheduler: Any) -> dict[str, Any]:
    """What of a scheduler must be the same when a training goes on, JSON-ready."""
    return {name: scheduler.config.get(name) or None for name in _SCHEDULE}
