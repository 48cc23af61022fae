"""SDXL's transformer block on 8-bit products: norms write codes, GEGLU and residuals go along."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from sdxl.backends.torch.parts import Part, plus, takes_codes


def _alike(layers: list[Any]) -> bool:
    """All take codes, of one number format, and all or none of them are smoothed."""
    if not all(map(takes_codes, layers)):
        return False
    smoothed = {layer.kernel.input.factors is None for layer in layers}
    return len(smoothed) == 1 and len({layer.code for layer in layers}) == 1


class Block(nn.Module):
    """diffusers' transformer block: self-attention, cross-attention, feed-forward with GEGLU."""

    ff: Any

    def __init__(self, plain: Any, home: Any) -> None:
        super().__init__()
        for name, part in plain.named_children():
            self.add_module(name, part)
        self.norm_codes = Part("norm", home.layer_norm_codes)
        self.geglu_codes = Part("activation", home.geglu_codes)
        self.geglu = Part("activation", _geglu)
        self.attend = Part("attention", _attend)

    def forward(
        self, hidden: Tensor, attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None, encoder_attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:  # fmt: skip
        """Hidden states (B, L, C); the rest is what SDXL's UNet never has."""
        assert attention_mask is None and encoder_attention_mask is None
        hidden = self._attention(self.attn1, self.norm1, hidden, None)
        hidden = self._attention(self.attn2, self.norm2, hidden, encoder_hidden_states)
        return self._feed_forward(hidden)

    def _attention(self, attn: Any, norm: Any, hidden: Tensor, context: Tensor | None) -> Tensor:
        gate = getattr(attn, "gate", None)  # of cross-attention that a shortcut keeps
        if gate and gate.replays:
            return hidden + gate.value
        merge = getattr(attn, "merge", None)  # of self-attention whose tokens a shortcut merges
        if merge and merge.on:
            return hidden + self._merged(attn, merge, norm(hidden))
        flat = hidden.reshape(-1, hidden.shape[-1])
        if context is None:
            query, key, value = self._of_norm(norm, flat, parts(attn, "q", "k", "v"))
        else:
            (query,) = self._of_norm(norm, flat, [attn.to_q])
            found = [layer(context) for layer in parts(attn, "k", "v")]
            key, value = found[0].chunk(2, dim=-1) if len(found) == 1 else found
        attended = self._attended(attn, len(hidden), query, key, value)
        if gate and gate.records:
            gate.value = attn.to_out[0](attended).view_as(hidden)
            return hidden + gate.value
        return plus(attn.to_out[0], attended, flat).view_as(hidden)

    def _merged(self, attn: Any, merge: Any, normed: Tensor) -> Tensor:
        """Self-attention of fewer tokens: what each of (B, L, C) gets of it."""
        fewer, restore = merge(normed)
        flat = fewer.reshape(-1, fewer.shape[-1])
        found = [layer(flat) for layer in parts(attn, "q", "k", "v")]
        query, key, value = found[0].chunk(3, dim=-1) if len(found) == 1 else found
        out = attn.to_out[0](self._attended(attn, len(fewer), query, key, value))
        made: Tensor = restore(out.view(*fewer.shape[:2], -1))
        return made

    def _attended(self, attn: Any, batch: int, *given: Tensor) -> Tensor:
        """Attention of query, key and value, tokens of the whole batch in rows (M, C)."""
        heads = (
            each.reshape(batch, -1, attn.heads, each.shape[-1] // attn.heads).transpose(1, 2)
            for each in given
        )
        found: Tensor = self.attend(attn.processor, *heads).transpose(1, 2)
        return found.reshape(len(given[0]), -1)

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        net: Any = self.ff.net
        first, last = net[0].proj, net[2]
        if not takes_codes(last):
            (wide,) = self._of_norm(self.norm3, flat, [first])
            return plus(last, self.geglu(wide), flat).view_as(hidden)
        wanted = last.kernel.input
        same = takes_codes(first) and first.code == last.code
        if same and hasattr(first.kernel, "geglu"):
            (coded,) = self._codes_of_norm(self.norm3, flat, [first])
            made = first.kernel.geglu(coded, wanted)
        else:
            (wide,) = self._of_norm(self.norm3, flat, [first])
            made = self.geglu_codes(wide, wanted.factors, wanted.per_unit, last.code)
        return last(made, coded=True, residual=flat).view_as(hidden)

    def _of_norm(self, norm: Any, flat: Tensor, layers: list[Any]) -> list[Tensor]:
        """What the layers make of norm(flat) (M, K); one that stands for three is cut in three."""
        if _alike(layers):
            coded = self._codes_of_norm(norm, flat, layers)
            found = [layer(c, coded=True) for layer, c in zip(layers, coded, strict=True)]
        else:
            normed = norm(flat)
            found = [layer(normed) for layer in layers]
        pieces = getattr(layers[0], "pieces", 1)
        return list(found[0].chunk(pieces, dim=-1)) if pieces > 1 else found

    def _codes_of_norm(self, norm: Any, flat: Tensor, layers: list[Any]) -> list[Tensor]:
        inputs = [layer.kernel.input for layer in layers]
        return self.norm_codes(flat, norm, inputs, layers[0].code)


def _geglu(wide: Tensor) -> Tensor:
    value, gate = wide.chunk(2, dim=-1)
    return value * functional.gelu(gate)


def _attend(processor: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    choice = getattr(processor, "choice", None)
    attend = choice.attend if choice else functional.scaled_dot_product_attention
    return attend(query, key, value)


def parts(attn: Any, *names: str) -> list[Any]:
    """The projections of an attention layer: each, or the one that stands for them."""
    one = getattr(attn, "to_" + "".join(names), None)
    return [one] if one is not None else [getattr(attn, f"to_{name}") for name in names]
