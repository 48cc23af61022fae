"""Calibration statistics -> scales -> a quantized UNet, each an artifact in the store.

The functions below import their part when called: `effective` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdxl.config.schema import Config
    from sdxl.core.store import Artifact


def prepare(config: Config) -> Artifact:
    """The quantized checkpoint of `config`, found in the store or made now."""
    from sdxl.quant import build

    return build.prepare(config)


def plan(config: Config) -> list[dict[str, Any]]:
    """The level table of this recipe for this model, and what of it is in the store."""
    from sdxl.quant import build

    return build.plan(config)


def keys(config: Config) -> dict[str, str]:
    """Content keys by kind of what `prepare` finds or makes: statistics, checkpoint."""
    from sdxl.quant import build

    return build.keys(config)


def effective(config: Config) -> dict[str, Any]:
    """The quantization settings that have an effect, for content keys."""
    from sdxl.config import derive

    return derive.effective(config)


def layer_report(config: Config, checkpoint: Artifact) -> list[dict[str, Any]]:
    """Relative output error of each quantized layer, the largest first."""
    from sdxl.quant import layer_errors

    return layer_errors.layer_report(config, checkpoint)
