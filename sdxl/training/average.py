"""The average of the weights, which is what a training leaves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdxl.training.checkpoint import trained


class Averaged:
    """While this lasts the module has the averaged weights."""

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
        for name, parameter in trained(self.module):
            other = self.average[name]
            kept = parameter.detach().clone()
            parameter.copy_(other)
            other.copy_(kept)


@torch.no_grad()
def follow(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    """A step of the average towards what the weights are now."""
    names, now = zip(*trained(module), strict=True)
    torch._foreach_lerp_([average[name] for name in names], [p.detach() for p in now], 1 - decay)
