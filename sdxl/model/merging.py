"""Self-attention of fewer tokens: tokens that say nearly the same are merged, and copied back.

Tokens at even rows and columns stay. Of the others those most like one that stays (cosine of what
self-attention gets) are added into it, up to a share of all tokens; each mean is attended to once.
Nothing is drawn, and each row of a batch merges its own.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from sdxl.config.schema import TokenMerging
from sdxl.core.errors import UserError

Tensor = torch.Tensor
Restore = Callable[[Tensor], Tensor]


class Merge:
    """What one self-attention does with its tokens; off until a call turns it on."""

    def __init__(self, ratio: float, halvings: int) -> None:
        self.ratio, self.halvings = ratio, halvings
        self.on = False
        self.size = (0, 0)
        """Height and width of the call's latents."""

    def gone(self, tokens: int) -> int:
        """How many of so many tokens are merged into others."""
        return min(int(self.ratio * tokens), tokens - self.stays())

    def stays(self) -> int:
        """How many tokens others are merged into."""
        height, width = self._sides()
        return -(-height // 2) * -(-width // 2)

    def __call__(self, hidden: Tensor) -> tuple[Tensor, Restore]:
        """Hidden states (B, N, C) -> fewer of them, and what makes N of as many others."""
        height, width = self._sides()
        assert hidden.shape[1] == height * width, "tokens are the pixels of a level"
        even = torch.zeros(height, width, dtype=torch.uint8, device=hidden.device)
        even[::2, ::2] = 1
        places = even.flatten().argsort(dim=-1, stable=True)
        others, stays = places[: -self.stays()], places[-self.stays() :]
        unit = functional.normalize(hidden, dim=-1)
        likeness = unit[:, others] @ unit[:, stays].transpose(1, 2)
        best, into = likeness.max(-1)
        order = best.argsort(dim=-1, descending=True, stable=True)
        count = self.gone(len(places))
        moves, keeps = order[:, :count], order[:, count:]
        into = into.gather(1, moves)
        # A product with zeros and ones: sums by index are not deterministic on a GPU.
        member = (into[:, None] == torch.arange(len(stays), device=into.device)[:, None]).to(hidden)
        moved, kept = (_rows(hidden[:, others], each) for each in (moves, keeps))
        mean = (hidden[:, stays] + member @ moved) / (1 + member.sum(-1, keepdim=True))
        back = torch.empty(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        rank = torch.arange(keeps.shape[1], device=hidden.device)
        back[:, stays] = keeps.shape[1] + torch.arange(len(stays), device=hidden.device)
        back.scatter_(1, others[keeps], rank.expand_as(keeps))
        back.scatter_(1, others[moves], keeps.shape[1] + into)
        return torch.cat([kept, mean], 1), lambda made: _rows(made, back)

    def _sides(self) -> tuple[int, int]:
        """Height and width of the tokens."""
        height, width = (-(-side // 2**self.halvings) for side in self.size)
        return height, width


def install(unet: Any, shortcut: TokenMerging) -> list[Merge]:
    """Give the self-attentions of the finest levels a `Merge`; modules keep their names."""
    found: list[Merge] = []
    blocks = [(number, block) for number, block in enumerate(unet.down_blocks)]
    blocks += list(enumerate(reversed(unet.up_blocks)))
    levels = sorted({number for number, block in blocks if getattr(block, "attentions", None)})
    if shortcut.levels > len(levels):
        raise UserError(
            "`shortcut.levels` is more than this UNet has with attention",
            str(shortcut.levels),
            f"1 to {len(levels)}" if levels else "a UNet with attention beside its middle",
            f"shortcut.levels={len(levels)}" if levels else "shortcut=none",
        )
    for number, block in blocks:
        if number not in levels[: shortcut.levels]:
            continue
        for name, module in block.named_modules():
            if name.rpartition(".")[2] == "attn1":
                module.merge = Merge(shortcut.ratio, number)
                module.forward = types.MethodType(_merged, module)
                found.append(module.merge)
    return found


def _rows(tokens: Tensor, places: Tensor) -> Tensor:
    """Tokens (B, N, C) at places (B, M) -> (B, M, C)."""
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))


def _merged(self: Any, hidden: Tensor, *given: Any, **words: Any) -> Tensor:
    if not self.merge.on:
        plain: Tensor = self.processor(self, hidden, *given, **words)
        return plain
    fewer, restore = self.merge(hidden)
    return restore(self.processor(self, fewer, *given, **words))
