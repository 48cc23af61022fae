"""Bytes of SDXL's weights, in memory and on disk, known before anything is loaded."""

from __future__ import annotations

from sdxl.config.plugins import backend_of
from sdxl.config.schema import Config, DType, Format, ScenesModel, TinyModel
from sdxl.core import disk

PARAMETERS = {"text_encoder": 817_782_784, "unet": 2_567_463_684, "vae": 83_653_863}
"""SDXL base 1.0; both text encoders together."""
BYTES = {DType.fp32: 4, DType.fp16: 2, DType.bf16: 2}
SHARES = {1.0: 0.125, 2.0: 0.603, 2.5: 0.895, 3.0: 0.984}
"""Of the UNet's parameters, those that a level quantizes under NVIDIA's exclusions."""
STATISTICS_BYTES = 1 << 30
"""Ranges of all channels at each step, kept at every power of two of prompts."""


def sizes(config: Config) -> dict[str, float]:
    """Bytes of a parameter as the precision says, by the names of `PARAMETERS`."""
    precision = config.precision
    wanted = (precision.text_encoder, precision.unet, precision.vae)
    return {name: float(BYTES[each]) for name, each in zip(PARAMETERS, wanted, strict=True)}


def quantized(config: Config) -> float:
    """Bytes of a UNet's parameter on average, where layers of the recipe hold their codes."""
    level = max(each for each in SHARES if each <= config.quant.level)
    share, size = SHARES[level], BYTES[config.precision.unet]
    code = 0.5 if config.quant.format in (Format.int4_weight_only, Format.nvfp4) else 1.0
    return size * (1 - share) + code * share


def checkpoint_bytes(config: Config) -> int:
    """Of a quantized UNet in the store, with its statistics; 0 where nothing is quantized."""
    if config.quant.format is Format.none:
        return 0
    if isinstance(config.model, TinyModel | ScenesModel):
        return disk.SMALL_BYTES
    return round(PARAMETERS["unet"] * quantized(config)) + STATISTICS_BYTES


def graph_bytes(config: Config) -> int:
    """Of the graphs that the backend loads, and of what it makes of them: engines, or its form.

    A quantized graph has its weights in the float one and in the checkpoint.
    """
    backend = backend_of(config)
    if backend.loads not in ("graphs", "engines"):
        return 0
    if isinstance(config.model, TinyModel | ScenesModel):
        return disk.SMALL_BYTES
    copies = 1 + (backend.loads == "engines") + bool(backend.form)
    per = sizes(config)
    return round(copies * sum(count * per[name] for name, count in PARAMETERS.items()))
