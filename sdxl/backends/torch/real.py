"""A quantized UNet that computes in 8 bits: every layer with the kernel that is fastest here.

A layer's kernel is chosen at its first call, by timing the candidates on that input; layers of one
shape share the outcome. What no kernel computes is simulated, counted and reported with its reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sdxl.backends.torch import fp8_attention, simulated
from sdxl.backends.torch.eight_bit import Choice, EightBit
from sdxl.backends.torch.fused import fuse
from sdxl.backends.torch.layer import read
from sdxl.backends.torch.timings import Timings
from sdxl.model.checkpoint import Checkpoint


def restore(
    unet: Any,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    fusion: bool = True,
    timings: Timings | None = None,
) -> tuple[Any, Choice]:
    """Fill `unet` (on the meta device) from a checkpoint; its 8-bit layers keep 8-bit weights.

    `timings`: layers may compute in floats where 8 bits are slower, or missing.

    Raises `SdxlError` if the checkpoint is of another architecture.
    """
    stored, choice = Checkpoint(folder), Choice(device, timings)
    real: set[str] = set()
    for name, entry in stored.layers.items():
        if reason := choice.why_not(entry, unet.get_submodule(name)):
            choice.fallbacks[name] = reason
        else:
            real.add(name)
    simulated.fill(unet, stored, dtype, device, skip=real)
    for name in real:
        owner, _, field = name.rpartition(".")
        plain = unet.get_submodule(name)
        if stored.layers[name].kind == "attention":
            fp8_attention.install(plain, name, stored, device, choice.attends(name))
            choice.layers[name] = fp8_attention.TritonAttention.name
            continue
        layer = read(stored, name, plain, dtype, device)
        setattr(unet.get_submodule(owner), field, EightBit(layer, choice))
    # After the layers are in place: what it hangs on q, k and v must stay there.
    simulated.simulate(unet, stored, device, skip=real)
    if fusion:
        fuse(unet, choice)
    return unet.eval(), choice
