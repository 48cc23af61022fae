"""Settings of the schedulers, which lead from noise to a picture; each has those that it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from omegaconf import MISSING

from sdxl.config.choices import Prediction, Spacing

# OmegaConf reads annotations at run time and wants `Optional[X]`, hence the spelling below.


@dataclass
class Scheduler:
    """Who leads from noise to a picture; what is null is as the model's own scheduler has it."""

    name: str = MISSING  # the option of `scheduler=`; auto: the model's own class and settings
    prediction_type: Optional[Prediction] = None  # what the UNet predicts; null: the model's own


@dataclass
class Spaced(Scheduler):
    """A scheduler that takes its timesteps from all that the model was trained on."""

    spacing: Optional[Spacing] = None  # timestep_spacing: which are taken; null: the model's own


@dataclass
class Ddim(Spaced):
    """Denoising diffusion implicit models."""

    eta: float = 0.0  # noise that a step adds: 0 none, 1 as much as DDPM


@dataclass
class Lcm(Scheduler):
    """Latent consistency models: few steps of those that they were distilled at."""

    original_steps: Optional[int] = None  # timesteps of the distillation; null: the model's, or 50


@dataclass
class Tcd(Lcm):
    """Trajectory consistency distillation."""

    eta: float = 0.3  # noise that a step adds (the paper's gamma): 0 none, 1 all


@dataclass
class Edm(Scheduler):
    """Models trained in EDM's preconditioning, as Playground v2.5; others draw noise with it."""

    sigma_min: Optional[float] = None  # smallest noise level; null: the model's, or 0.002
    sigma_max: Optional[float] = None  # largest noise level; null: the model's, or 80
    sigma_data: Optional[float] = None  # spread of the latents; null: the model's, or 0.5
