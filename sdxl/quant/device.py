"""Which number formats a device has arithmetic for."""

from __future__ import annotations

import torch

from sdxl.config.schema import Format
from sdxl.core.errors import UserError

NEEDS: dict[Format, tuple[tuple[int, int], str]] = {
    Format.int8: ((7, 5), "INT8 tensor cores exist from sm75 (Turing)"),
    Format.fp8: ((8, 9), "FP8 tensor cores exist from sm89 (Ada, Hopper)"),
    Format.auto_mixed: ((8, 9), "it mixes INT8 and FP8, and FP8 tensor cores exist from sm89"),
    Format.nvfp4: ((10, 0), "NVFP4 tensor cores exist from sm100 (Blackwell)"),
}
"""Lowest compute capability, and why. Weight-only formats compute in 16 bits: any device."""


def check(wanted: Format, device: torch.device) -> None:
    """Raise `UserError` if the device has no arithmetic for the format.

    A CPU simulates INT8 and FP8, and says so; it cannot simulate NVFP4.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    refuse(wanted, capability, name)


def refuse(wanted: Format, capability: tuple[int, int] | None, name: str) -> None:
    """`check` on plain values; `capability` is None where there is no CUDA device."""
    if wanted not in NEEDS:
        return
    least, reason = NEEDS[wanted]
    if capability is None:
        if wanted is Format.nvfp4:
            raise UserError(
                "this device cannot run NVFP4", name, f"a CUDA device: {reason}", "quant=fp8"
            )
        return
    if capability < least:
        raise UserError(
            f"this device cannot run {wanted.value.upper()}",
            f"{name}, sm{capability[0]}{capability[1]}",
            reason,
            "quant=int8" if capability >= NEEDS[Format.int8][0] else "quant=int8_weight_only",
        )
    if wanted is Format.nvfp4:
        raise UserError(
            "NVFP4 is not built yet: nobody has run it here", name, "INT8 or FP8", "quant=fp8"
        )
