"""Which kernel computes attention: PyTorch's own order, one by name, or the fastest per shape.

Candidates are those of `torch.nn.functional.scaled_dot_product_attention` and, where installed,
FlashAttention 3. A shape that the wanted kernel does not compute is left to PyTorch, counted and
reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.nn import attention, functional
from torch.nn.attention import SDPBackend

from sdxl.backends.torch import clock, fa3
from sdxl.backends.torch.config import Attention
from sdxl.backends.torch.parts import plain_attention

KERNELS = {
    Attention.math: SDPBackend.MATH,
    Attention.flash: SDPBackend.FLASH_ATTENTION,
    Attention.efficient: SDPBackend.EFFICIENT_ATTENTION,
    Attention.cudnn: SDPBackend.CUDNN_ATTENTION,
}
"""PyTorch's own; `fa3` is no kernel of its function."""

MATH_BYTES = 1 << 28
"""`math` holds all scores at once; above this it is no candidate of `auto`."""

Key = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shapes (B, heads, length, width) of query and key, and their type."""


class Choice:
    """The kernel of every shape, and how it was found."""

    def __init__(self, wanted: Attention, device: torch.device) -> None:
        self.wanted, self.device = wanted, device
        self._kernels: dict[Key, Attention | None] = {}
        self.times: dict[Key, dict[str, float]] = {}
        self.unable: dict[Key, dict[str, str]] = {}
        self.others = 0  # attention layers that compute in their own way

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention (B, heads, length, width) without a mask."""
        kernel = self.kernel(tuple(query.shape), tuple(key.shape), query.dtype)
        return self._run(kernel, query, key, value)

    def kernel(
        self, query: tuple[int, ...], key: tuple[int, ...], dtype: torch.dtype
    ) -> Attention | None:
        """What computes this shape; None: PyTorch's own order."""
        known = (query, key, dtype)
        if known not in self._kernels:
            self._kernels[known] = self._choose(known)
        return self._kernels[known]

    def describe(self) -> dict[str, Any]:
        """For the record: setting, kernel of each shape with milliseconds, fallbacks by reason."""
        shapes: list[dict[str, Any]] = []
        for known, kernel in self._kernels.items():
            query, key, dtype = known
            shapes.append({
                "query": list(query), "key": list(key), "dtype": str(dtype).split(".")[-1],
                "chosen": kernel.value if kernel else "torch",
                "ms": {name: round(ms, 4) for name, ms in self.times.get(known, {}).items()},
                "unable": self.unable.get(known, {}),
            })  # fmt: skip
        return {
            "wanted": self.wanted.value,
            "shapes": shapes,
            "layers_of_their_own": self.others,
            "fallbacks": dict(Counter(s["unable"][self.wanted.value] for s in shapes
                                      if self.wanted.value in s["unable"])),
        }  # fmt: skip

    def _choose(self, known: Key) -> Attention | None:
        (batch, heads, length, _), (_, _, keys, _), dtype = known
        names = [self.wanted]
        if self.wanted is Attention.auto:
            small = batch * heads * length * keys * dtype.itemsize <= MATH_BYTES
            names = [n for n in (*KERNELS, Attention.fa3) if small or n is not Attention.math]
        times: dict[Attention, float] = {}
        for name in names:
            try:
                times[name] = self._ms(known, name)
            except RuntimeError as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                self.unable.setdefault(known, {})[name.value] = reason
        self.times[known] = {name.value: ms for name, ms in times.items()}
        return min(times, key=times.__getitem__) if times else None

    def _ms(self, known: Key, name: Attention) -> float:
        if name is Attention.fa3 and (reason := fa3.why_not(self.device)):
            raise RuntimeError(reason)
        query, key, dtype = known
        # As the projections write them: a row's heads side by side.
        shapes = ((b, length, heads, width) for b, heads, length, width in (query, key, key))
        q, k, v = (
            torch.randn(shape, dtype=dtype, device=self.device).transpose(1, 2) for shape in shapes
        )
        with torch.inference_mode(), _no_warnings():
            return clock.ms(lambda: self._run(name, q, k, v), self.device)

    @staticmethod
    def _run(
        kernel: Attention | None, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        if kernel is Attention.fa3:
            return fa3.attend(query, key, value)
        with using(kernel):
            return functional.scaled_dot_product_attention(query, key, value)


def using(kernel: Attention | None) -> Any:
    """A context in which PyTorch's function computes with this kernel."""
    return attention.sdpa_kernel(KERNELS[kernel]) if kernel in KERNELS else nullcontext()


class Attend(AttnProcessor2_0):
    """diffusers' processor with the kernel that was chosen for the shape."""

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.choice = choice

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None, temb: torch.Tensor | None = None,
        *args: Any, **kwargs: Any,
    ) -> torch.Tensor:  # fmt: skip
        """The layer's output.

        diffusers looks for `temb`, which its VAE hands over, among the parameters, and warns, at
        which torch.compile would break the graph, where it finds none.
        """
        rest = (encoder_hidden_states, attention_mask, temb, *args)
        if attention_mask is not None:
            return super().__call__(attn, hidden_states, *rest, **kwargs)
        pixels = hidden_states.dim() == 4  # the VAE's (B, C, h, w)
        length = hidden_states[0, 0].numel() if pixels else hidden_states.shape[1]
        keys = length if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        width = attn.inner_dim // attn.heads
        query = (len(hidden_states), attn.heads, length, width)
        kernel = self.choice.kernel(query, (*query[:2], keys, width), hidden_states.dtype)
        if kernel is Attention.fa3 and plain_attention(attn) and not pixels:
            return projected(self.choice.attend, attn, hidden_states, encoder_hidden_states)
        with using(kernel):
            return super().__call__(attn, hidden_states, *rest, **kwargs)


def projected(
    attend: Any, attn: Any, hidden: torch.Tensor, context: torch.Tensor | None
) -> torch.Tensor:
    """A plain attention layer (B, L, C), with `attend` between its projections."""
    given = hidden if context is None else context
    query, key, value = (
        layer(values).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for layer, values in ((attn.to_q, hidden), (attn.to_k, given), (attn.to_v, given))
    )
    found: torch.Tensor = attn.to_out[0](attend(query, key, value).transpose(1, 2).flatten(2))
    return found


def install(networks: list[Any], wanted: Attention, device: torch.device) -> Choice:
    """Let every attention layer of `networks` use the wanted kernel."""
    from diffusers.models.attention_processor import Attention as Layer

    choice = Choice(wanted, device)
    for network in networks:
        for module in network.modules():
            if not isinstance(module, Layer):
                continue
            if type(module.processor) is AttnProcessor2_0:
                module.set_processor(Attend(choice))
            else:
                choice.others += 1
            if beside := getattr(module.processor, "beside", None):
                beside(choice.attend)  # FP8 attention is timed against the kernel that is wanted
    return choice


@contextmanager
def _no_warnings() -> Iterator[None]:
    """PyTorch warns at length why a kernel is not for a shape; the record has it."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
