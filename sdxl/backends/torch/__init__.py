"""PyTorch: eager or compiled, on CPU, CUDA or MPS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdxl.backends.torch import rules
from sdxl.backends.torch.config import Config
from sdxl.config import schema
from sdxl.config.plugins import Backend
from sdxl.core.errors import ConfigError

if TYPE_CHECKING:
    from sdxl.backends.torch.stages import TorchStages


def _open(config: schema.Config, artifacts: dict[str, Path]) -> TorchStages:
    """Load the model onto its device, ready to run; `artifacts["unet"]`: a quantized checkpoint."""
    from sdxl.backends.torch.stages import TorchStages
    from sdxl.model.components import torch_device

    device = torch_device(config.model.device)
    memory_bytes = None
    if device.type == "cuda":
        import torch

        memory_bytes = torch.cuda.get_device_properties(device).total_memory
    if problems := list(rules.missing(config, device.type, memory_bytes)):
        raise ConfigError(problems)
    return TorchStages(config, artifacts)


def _settle(config: schema.Config) -> None:
    """Choose the dtypes of `precision=auto`; raises `ConfigError` if the model is not on a CPU."""
    from sdxl.backends.torch import dtypes

    dtypes.settle(config)


BACKEND = Backend(
    Config,
    _open,
    "checkpoint",
    parts=("deep", "cross", "tokens"),
    profiles=True,
    settle=_settle,
    quantized_only=("execution", "fusion"),
    problems_of=lambda config: list(rules.problems_of(config)),
    missing=lambda config: list(rules.missing(config)),
)
