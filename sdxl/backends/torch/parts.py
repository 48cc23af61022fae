"""What the fused blocks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def takes_codes(layer: Any) -> bool:
    """Whether whoever makes the layer's input may make its codes."""
    return bool(getattr(getattr(layer, "kernel", None), "takes_codes", False))


class Part(nn.Module):
    """A function as a module, so that a profile sees its time under its kind."""

    def __init__(self, kind: str, run: Callable[..., Any]) -> None:
        super().__init__()
        self.kind, self.run = kind, run

    def forward(self, *given: Any) -> Any:
        """The function's value."""
        return self.run(*given)


def plus(layer: Any, values: Tensor, residual: Tensor | None) -> Tensor:
    """layer(values) + residual, in one where the layer can."""
    if residual is None:
        return layer(values)
    if hasattr(layer, "kernel"):
        return layer(values, residual=residual)
    return layer(values) + residual


def plain_attention(attn: Any) -> bool:
    """Projections, attention and one more projection, and nothing else."""
    return (
        attn.norm_q is None
        and attn.group_norm is None
        and attn.rescale_output_factor == 1
        and not attn.residual_connection
        and not attn.norm_cross
    )
