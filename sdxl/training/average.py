"""The average of the weights, which is what a training leaves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdxl.training.checkpoint import trained


class Averaged:
    """While this lasts the module has the averaged weights; its own where none are kept."""

    def __init__(self, module: nn.Module, average: dict[str, Tensor]) -> None:
        self.module, self.average = module, average

    def __enter__(self) -> None:
        self._swap()
        self.module.eval()

    def __exit__(self, *_: object) -> None:
        self._swap()
        self.module.train()

    @torch.no_grad()
    def _swap(self) -> None:
        parameters = dict(self.module.named_parameters())
        for name, other in self.average.items():
            parameter = parameters[name]
            kept = parameter.detach().clone()
            parameter.copy_(other)
            other.copy_(kept)


def state_bytes(parameters: int, decay: float | None) -> int:
    """Of so many that learn, in fp32: weight, gradient, two moments of AdamW, their average."""
    return parameters * 4 * (4 + (decay is not None))


def begun(module: nn.Module, decay: float | None) -> dict[str, Tensor]:
    """The average before the first step; empty where `decay` is None."""
    return {} if decay is None else {k: v.detach().clone() for k, v in trained(module)}


@torch.no_grad()
def follow(
    average: dict[str, Tensor], learning: list[Tensor], decay: float | None, step: int
) -> None:
    """The average after `step` steps, of which early ones count more than `decay` says.

    learning: the parameters, in the order in which it has `begun`.
    """
    if decay is not None:
        weight = 1 - min(decay, step / (step + 10))
        torch._foreach_lerp_([*average.values()], learning, weight)
