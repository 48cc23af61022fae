"""The optimizer of a training, and the rate of each of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdxl.config.schema.train import Training


def optimizer(module: nn.Module, settings: Training) -> torch.optim.AdamW:
    """AdamW; matrices and kernels decay, norms and biases only with `decay_all`."""
    trained = [p for p in module.parameters() if p.requires_grad]
    thin = 0 if settings.decay_all else 1
    decayed = [p for p in trained if p.dim() > thin]
    others = [p for p in trained if p.dim() <= thin]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, betas=betas, eps=settings.epsilon, fused=True)


def clip(accelerator: Any, learning: Sequence[Tensor], settings: Training) -> Tensor:
    """The norm of all gradients together, before they are clipped to `clip_norm`, if it is set."""
    if settings.clip_norm is None:
        return nn.utils.get_total_norm([p.grad for p in learning if p.grad is not None])
    found: Tensor = accelerator.clip_grad_norm_(learning, settings.clip_norm)
    return found


def highest_rate(settings: Training) -> float:
    """The learning rate after warming up: `lr`, or `base_lr` times the batch."""
    return settings.lr if settings.base_lr is None else settings.base_lr * settings.batch


def slower(settings: Training) -> str:
    """The words of a training anew at half the rate: one that is begun goes on with its own."""
    name = "lr" if settings.base_lr is None else "base_lr"
    return f"train.{name}={getattr(settings, name) / 2:g} train.run=ANOTHER_NAME"


def rate(step: int, settings: Training) -> float:
    """The learning rate of a step: linear warm-up, constant, cosine to zero at the end."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    decay = settings.decay_share * settings.steps
    left = settings.steps - step
    fall = 0.5 - 0.5 * math.cos(math.pi * left / decay) if left < decay else 1.0
    return highest_rate(settings) * warm * fall
