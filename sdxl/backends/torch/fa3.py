"""FlashAttention 3 for Hopper, by the op of the package `fa3-fwd` (0.0.3) or of a build of its own.

Source of the signature: the wheel's fa3_fwd_interface.py and the schema in its library. PyTorch's
`activate_flash_attention_impl("FA3")` wants a module that no wheel on PyPI provides.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch

PACKAGES = ("fa3_fwd", "flash_attn_3")
"""Each registers `torch.ops.<name>.fwd` when its `_C` is imported."""


@cache
def why_not(device: torch.device) -> str:
    """Why it cannot be used here; empty if it can."""
    if device.type != "cuda":
        return "FlashAttention 3 needs an NVIDIA GPU"
    major, minor = torch.cuda.get_device_capability(device)
    if major != 9:
        return f"FlashAttention 3 needs compute capability 9.x, this is {major}.{minor}"
    reasons = []
    for name in PACKAGES:
        try:
            importlib.import_module(f"{name}._C")
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(f"{name}: {str(error).splitlines()[0]}")
    return "; ".join(reasons) if len(reasons) == len(PACKAGES) else ""


def op() -> Any:
    """The package's own, which `why_not` has imported."""
    spaces = (getattr(torch.ops, name) for name in PACKAGES)
    return next(space.fwd for space in spaces if hasattr(space, "fwd"))


@torch.library.custom_op("sdxl::fa3", mutates_args=())
def forward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """(B, L, heads, width) each, 16 bits; an op of ours, so that torch.compile need not look in."""
    scale = query.shape[-1] ** -0.5
    out: torch.Tensor = op()(query, key, value, softmax_scale=scale, num_splits=1)[0]
    return out


@forward.register_fake
def _shape(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention (B, heads, length, width) without a mask, as PyTorch's function has it."""
    parts = (each.transpose(1, 2) for each in (query, key, value))
    found: torch.Tensor = forward(*parts)
    return found.transpose(1, 2)
