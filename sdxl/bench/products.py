"""The matrix products of a UNet's calls, on shapes alone: operations, and the bytes they move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sdxl.config import schema, shortcuts
from sdxl.config.schema import Format
from sdxl.model import guidance, schedulers
from sdxl.model.components import torch_dtype
from sdxl.model.kinds import kinds_of
from sdxl.model.sources import shapes_source
from sdxl.quant import levels


@dataclass(frozen=True)
class Product:
    """A layer of the UNet: its operations, the bytes it moves, whether its factors have 8 bits."""

    flop: float
    moved: float
    eight_bit: bool


Calls = list[tuple[int, list[Product]]]
"""How many calls of each kind a batch has, and the products of one."""


def of_calls(
    config: schema.Config, images: int, eight_bit: set[str] | None = None
) -> Callable[[schema.Shortcut], Calls]:
    """A function from a shortcut to a batch's calls; a kind that two have is looked at once.

    eight_bit: the layers with 8-bit factors; None: those that the recipe selects.
    """
    model, dtype = config.model, torch_dtype(config.precision.unet)
    source, size = shapes_source(model, config.seed), (model.height, model.width)
    unet: Any = source.component("unet", dtype, torch.device("meta"))
    watch = _Watch(unet, _eight_bit(config, unet) if eight_bit is None else eight_bit)
    calls = schedulers.chosen(config, source).calls
    known: dict[tuple[str, int | None], list[Product]] = {}

    def find(shortcut: schema.Shortcut) -> Calls:
        steps, found = guidance.steps_of(shortcut, model, source, calls), []
        with torch.inference_mode():
            for kind in kinds_of(unet, shortcut, steps, size, images):
                branch = None if kind.step.deep else shortcuts.branch_of(shortcut)
                key = kind.step.kind, branch
                if key not in known:
                    known[key] = watch.products(kind.run)
                found.append((kind.calls, known[key]))
        return found

    return find


class _Watch:
    """Forward hooks on a UNet; a norm counts as a pass over its input and output."""

    def __init__(self, unet: Any, eight_bit: set[str]) -> None:
        from diffusers.models.attention_processor import Attention

        self.eight_bit, self.found = eight_bit, list[Product]()
        self.size = unet.dtype.itemsize
        for name, module in unet.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(self._matrix(name))
            elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
                module.forward = torch.empty_like  # type: ignore[method-assign]  # shapes alone
                module.register_forward_hook(self._norm)
            elif isinstance(module, Attention):
                module.register_forward_hook(self._attention(name), with_kwargs=True)

    def products(self, run: Callable[[], Any]) -> list[Product]:
        """Those of one call."""
        self.found.clear()
        run()
        return list(self.found)

    def _matrix(self, name: str) -> Any:
        def hook(module: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            eight = name in self.eight_bit
            moved = (given[0].numel() + module.weight.numel()) * (1 if eight else self.size)
            flop = 2 * out.numel() * module.weight[0].numel()
            self.found.append(Product(flop, moved + out.numel() * self.size, eight))

        return hook

    def _norm(self, _module: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        moved = given[0].numel() * self.size + out.numel() * (1 if self.eight_bit else self.size)
        self.found.append(Product(0, moved, False))

    def _attention(self, name: str) -> Any:
        def hook(module: Any, given: Any, words: Any, _out: torch.Tensor) -> None:
            gate = getattr(module, "gate", None)
            if gate and gate.replays:  # nothing was computed
                return
            keys, tokens = words.get("encoder_hidden_states"), given[0].shape[1]
            merge = getattr(module, "merge", None)
            if merge and merge.on:
                self._merging(given[0], merge)
                tokens -= merge.gone(tokens)
            length = tokens if keys is None else keys.shape[1]
            queries = given[0].shape[0] * tokens * module.inner_dim
            held = 2 * queries + 2 * given[0].shape[0] * length * module.inner_dim
            eight = name in self.eight_bit
            self.found.append(Product(4 * queries * length, held * self.size, eight))

        return hook

    def _merging(self, hidden: torch.Tensor, merge: Any) -> None:
        """The products with which like tokens are found and added up."""
        (rows, tokens, width), gone = hidden.shape, merge.gone(hidden.shape[1])
        stays = merge.stays()
        for count in (tokens - stays, gone):
            moved = rows * ((count + stays) * width + count * stays)
            flop = 2 * rows * count * stays * width
            self.found.append(Product(flop, moved * self.size, False))


def _eight_bit(config: schema.Config, unet: Any) -> set[str]:
    """Layers whose product has two 8-bit factors."""
    if config.quant.format not in (Format.int8, Format.fp8):
        return set()
    return {layer.name for layer in levels.select(levels.layers_of(unet), config.quant)}
