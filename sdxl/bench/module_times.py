"""Where a forward pass spends its time, by kind of module and by module."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import torch
from torch import nn

KINDS: dict[str, tuple[str, ...]] = {
    "linear": ("Linear", "LoRACompatibleLinear"),
    "conv": ("Conv2d", "LoRACompatibleConv"),
    "attention": ("Attention",),
    "norm": ("GroupNorm", "LayerNorm"),
    "activation": ("SiLU", "GELU", "GEGLU", "FeedForward"),
}
"""Class names by kind; an 8-bit layer carries its own `kind`. The rest is `other`."""


class ModuleTimes:
    """Times every module of a network while it is entered; own time, without the parts inside.

    With attention, that is both products and the softmax; with `other`, residual sums and copies.
    On CUDA each module waits for its kernels, which makes the sum slower than an unwatched pass.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.seconds: dict[str, float] = defaultdict(float)
        self._kinds = {name: _kind(module) for name, module in network.named_modules()}
        self._open: list[tuple[float, float]] = []
        self._handles: list[Any] = []
        held = [*network.parameters(), *network.buffers()]
        self._cuda = any(each.is_cuda for each in held)

    def __enter__(self) -> ModuleTimes:
        for name, module in self.network.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._begin))
            self._handles.append(
                module.register_forward_hook(lambda *_, name=name: self._end(name))
            )
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def by_kind(self) -> dict[str, float]:
        """Seconds by kind, longest first."""
        found: dict[str, float] = defaultdict(float)
        for name, seconds in self.seconds.items():
            found[self._kinds[name]] += seconds
        return dict(sorted(found.items(), key=lambda each: -each[1]))

    def longest(self, count: int = 10) -> list[tuple[str, str, float]]:
        """(module, kind, seconds), longest first."""
        order = sorted(self.seconds.items(), key=lambda each: -each[1])
        return [(name, self._kinds[name], seconds) for name, seconds in order[:count]]

    def _begin(self, *_: object) -> None:
        self._open.append((self._now(), 0.0))

    def _end(self, name: str) -> None:
        began, inside = self._open.pop()
        whole = self._now() - began
        self.seconds[name] += whole - inside
        if self._open:
            outer, others = self._open[-1]
            self._open[-1] = outer, others + whole

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def _kind(module: nn.Module) -> str:
    own = getattr(module, "kind", None)
    if isinstance(own, str):
        return own
    name = type(module).__name__
    return next((kind for kind, classes in KINDS.items() if name in classes), "other")
