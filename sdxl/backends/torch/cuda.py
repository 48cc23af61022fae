"""8-bit arithmetic of a GPU: which kernels there are, which of them are exact here, and the norms.

Written against CUDA and, where a test can, run under Triton's interpreter on a CPU.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch

from sdxl.backends.torch.kernels.words import short
from sdxl.backends.torch.layer import Input, Kernel, extreme
from sdxl.backends.torch.products import (
    CudnnConv,
    RowwiseMm,
    ScaledMm,
    TritonConv,
    TritonLinear,
    geglu_codes,
)
from sdxl.config.schema import Format

__all__ = ["CudnnConv", "RowwiseMm", "ScaledMm", "TritonConv", "TritonLinear", "geglu_codes"]

_stacked: WeakKeyDictionary[Any, tuple[list[Input], torch.Tensor, torch.Tensor | None]]
_stacked = WeakKeyDictionary()
"""A norm's consumers, and their constants side by side."""


def layer_norm_codes(
    values: torch.Tensor, norm: Any, inputs: list[Input], dtype: torch.dtype
) -> list[torch.Tensor]:
    """Codes (M, K) of norm(values) for each consumer, in one pass."""
    from sdxl.backends.torch.kernels.quantize import layer_norm_quantize

    known = _stacked.get(norm)
    if known is None or [*map(id, known[0])] != [*map(id, inputs)]:
        known = _stacked[norm] = _constants(inputs)
    _, per_unit, factors = known
    found = layer_norm_quantize(
        values, norm.weight, norm.bias, norm.eps, factors, per_unit, dtype
    )  # fmt: skip
    return list(found.unbind())


def _constants(
    inputs: list[Input],
) -> tuple[list[Input], torch.Tensor, torch.Tensor | None]:
    smoothed = [each.factors for each in inputs if each.factors is not None]
    assert len(smoothed) in (0, len(inputs)), "all of them are smoothed, or none"
    per_unit = torch.stack([each.per_unit.reshape(()) for each in inputs])
    return inputs, per_unit, torch.stack(smoothed) if smoothed else None


def group_norm_codes(
    pixels: torch.Tensor, norm: Any, layer: Any, skip: torch.Tensor | None = None,
    added: torch.Tensor | None = None, activate: bool = True,
) -> torch.Tensor:  # fmt: skip
    """Codes of silu(norm(pixels + added)) for a layer's kernel, a skip's channels behind the own.

    pixels (N, h, w, C); added (N, C) or None. Codes (N, h, w, C), with the frame that the kernel
    asks for.
    """
    from sdxl.backends.torch.kernels.group_norm import group_norm_quantize

    kernel = layer.kernel
    return group_norm_quantize(
        pixels, norm.num_groups, norm.weight, norm.bias, norm.eps, kernel.input.per_unit,
        layer.code, skip, added, activate, getattr(kernel, "framed", False),
    )  # fmt: skip


def candidates(kind: str, number: Format) -> tuple[type[Kernel], ...]:
    """Kernels for a kind of layer in a number format."""
    if kind == "conv":
        return (TritonConv, CudnnConv)
    return (ScaledMm, RowwiseMm, TritonLinear) if number is Format.fp8 else (TritonLinear,)


def usable(
    kind: str, number: Format, device: torch.device, refused: dict[str, str] | None = None
) -> list[type[Kernel]]:
    """The candidates that compute a layer of large codes exactly on this device.

    `refused` gets the others by name, with what they raised or how far off they were.
    """
    found: list[type[Kernel]] = []
    for candidate in candidates(kind, number):
        layer, values, expected = extreme(kind, number, device)
        try:
            made = candidate(layer, values)(values).float()
        except Exception as error:  # a kernel that cannot be built here, for whatever reason
            reason = short(error)
        else:
            exact = torch.allclose(made, expected.float(), rtol=2**-7)
            reason = "" if exact else f"wrong by {_apart(made, expected):.2g} of the largest"
        if not reason:
            found.append(candidate)
        elif refused is not None:
            refused[candidate.name] = reason
    return found


def _apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected.float()).abs().max() / expected.abs().max())


def why_none(device: torch.device, number: Format) -> str | None:
    """What the GPU lacks for a number format, in words; None if it has it."""
    if device.type == "cuda" and number is Format.fp8:
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) < (8, 9):
            return f"no FP8 arithmetic on compute capability {major}.{minor}"
    return None


def best_ms(kernel: Kernel, example: torch.Tensor, residual: torch.Tensor | None = None) -> float:
    """Milliseconds of one call as a run makes it, with its residual: median of graph replays."""
    from sdxl.backends.torch.kernels import tuning

    return tuning.milliseconds(lambda: kernel(example, residual))
