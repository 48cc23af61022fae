"""A quantized UNet in PyTorch: weights from the compact checkpoint, activations simulated.

Arithmetic stays in the model's dtype: quality is that of the 8-bit model, speed is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdxl.config.schema import Format
from sdxl.core.errors import SdxlError
from sdxl.model import codes
from sdxl.model.checkpoint import ATTENTION_PARTS, Checkpoint


def restore(unet: Any, folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """Fill `unet` (on the meta device) from a checkpoint and round its activations as stored.

    Raises `SdxlError` if the checkpoint is of another architecture.
    """
    stored = Checkpoint(folder)
    fill(unet, stored, dtype, device, skip=set())
    simulate(unet, stored, device, skip=set())
    return unet.eval()


def fill(
    unet: Any, stored: Checkpoint, dtype: torch.dtype, device: torch.device, skip: set[str]
) -> None:
    """Give `unet` the stored tensors, except the weights of the layers in `skip`.

    Raises `SdxlError` if the checkpoint is of another architecture.
    """
    missing = set(dict(unet.named_parameters()))
    for name, tensor in stored.state(dtype, skip):
        if name not in missing:
            raise SdxlError("the checkpoint is of another model", f"{stored.folder}: {name}")
        missing.discard(name)
        owner, _, field = name.rpartition(".")
        moved = nn.Parameter(tensor.to(device), requires_grad=False)
        setattr(unet.get_submodule(owner), field, moved)
    missing -= {f"{name}.weight" for name in skip}
    if missing:
        raise SdxlError(
            "the checkpoint is of another model", f"{stored.folder} lacks {sorted(missing)[:5]}"
        )


def simulate(unet: Any, stored: Checkpoint, device: torch.device, skip: set[str]) -> None:
    """Round the inputs of the stored layers that are not in `skip`."""
    attention = {name for name, layer in stored.layers.items() if layer.kind == "attention"} - skip
    if attention:
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())  # shows q, k, v and the softmax
    for name, layer in stored.layers.items():
        if name in skip:
            continue
        module = unet.get_submodule(name)
        if name in attention:
            _round_attention(module, name, stored, device)
        elif not layer.weight_only:
            amax, factors = stored.tensor(f"{name}.input_amax"), stored.get(name, "pre_quant_scale")
            module.register_forward_pre_hook(
                Rounding(amax.to(device), factors if factors is None else factors.to(device),
                         layer.format is Format.fp8)
            )  # fmt: skip


class Rounding:
    """Forward pre-hook: the input smoothed, then rounded to INT8 or FP8."""

    def __init__(self, amax: torch.Tensor, factors: torch.Tensor | None, fp8: bool) -> None:
        self.amax, self.factors, self.fp8 = amax, factors, fp8

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The hook."""
        smoothed = args[0] if self.factors is None else args[0] * self.factors
        return (codes.rounded(smoothed, self.amax, self.fp8), *args[1:])


def _round_attention(module: Any, name: str, stored: Checkpoint, device: torch.device) -> None:
    """FP8 on q, k, v (the outputs of their projections) and on the softmax."""
    amax = {part: stored.tensor(f"{name}.{part}_amax").to(device) for part in ATTENTION_PARTS}
    for part in "qkv":
        module.get_submodule(f"to_{part}").register_forward_hook(
            lambda _module, _args, out, part=part: codes.rounded(out, amax[part], fp8=True)
        )
    plain = module.get_attention_scores

    def scores(*args: Any, **kwargs: Any) -> torch.Tensor:
        return codes.rounded(plain(*args, **kwargs), amax["softmax"], fp8=True)

    module.get_attention_scores = scores
