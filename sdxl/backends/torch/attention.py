"""Which kernel computes attention: PyTorch's own order, one by name, or the fastest per shape.

Candidates are those of `torch.nn.functional.scaled_dot_product_attention`; FlashAttention 3, where
installed, takes the place of PyTorch's own FlashAttention. A shape that the wanted kernel does not
compute is left to PyTorch, counted and reported.
"""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.nn import attention, functional
from torch.nn.attention import SDPBackend

from sdxl.backends.torch.config import Attention

KERNELS = {
    Attention.math: SDPBackend.MATH,
    Attention.flash: SDPBackend.FLASH_ATTENTION,
    Attention.efficient: SDPBackend.EFFICIENT_ATTENTION,
    Attention.cudnn: SDPBackend.CUDNN_ATTENTION,
}
TRIALS = 5
"""Timed calls per candidate; the fastest counts."""

MATH_BYTES = 1 << 28
"""`math` holds all scores at once; above this it is no candidate of `auto`."""

Key = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shapes (B, heads, length, width) of query and key, and their type."""


class Choice:
    """The kernel of every shape, and how it was found."""

    def __init__(self, wanted: Attention, device: torch.device) -> None:
        self.wanted, self.device = wanted, device
        self.flash = _newest_flash() if device.type == "cuda" else "flash"
        self._kernels: dict[Key, SDPBackend | None] = {}
        self.times: dict[Key, dict[str, float]] = {}
        self.unable: dict[Key, dict[str, str]] = {}
        self.others = 0  # attention layers that compute in their own way

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attention (B, heads, length, width) without a mask."""
        with self.using(tuple(query.shape), tuple(key.shape), query.dtype):
            return functional.scaled_dot_product_attention(query, key, value)

    def using(self, query: tuple[int, ...], key: tuple[int, ...], dtype: torch.dtype) -> Any:
        """A context in which PyTorch computes this shape with its kernel."""
        known = (query, key, dtype)
        if known not in self._kernels:
            self._kernels[known] = self._choose(known)
        kernel = self._kernels[known]
        return nullcontext() if kernel is None else attention.sdpa_kernel(kernel)

    def describe(self) -> dict[str, Any]:
        """For the record: setting, kernel of each shape with milliseconds, fallbacks by reason."""
        shapes: list[dict[str, Any]] = []
        for known, kernel in self._kernels.items():
            query, key, dtype = known
            shapes.append({
                "query": list(query), "key": list(key), "dtype": str(dtype).split(".")[-1],
                "chosen": "torch" if kernel is None else self._name(kernel),
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

    def _choose(self, known: Key) -> SDPBackend | None:
        (batch, heads, length, _), (_, _, keys, _), dtype = known
        names = [self.wanted]
        if self.wanted is Attention.auto:
            small = batch * heads * length * keys * dtype.itemsize <= MATH_BYTES
            names = [name for name in KERNELS if small or name is not Attention.math]
        times: dict[SDPBackend, float] = {}
        for name in names:
            kernel = KERNELS[name]
            try:
                times[kernel] = self._ms(known, kernel)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                self.unable.setdefault(known, {})[name.value] = reason
        self.times[known] = {self._name(kernel): ms for kernel, ms in times.items()}
        return min(times, key=times.__getitem__) if times else None

    def _ms(self, known: Key, kernel: SDPBackend) -> float:
        query, key, dtype = known
        q, k, v = (torch.randn(s, dtype=dtype, device=self.device) for s in (query, key, key))
        with torch.inference_mode(), attention.sdpa_kernel(kernel), _no_warnings():
            return best_ms(lambda: functional.scaled_dot_product_attention(q, k, v), self.device)

    def _name(self, kernel: SDPBackend) -> str:
        found = next(name.value for name, each in KERNELS.items() if each is kernel)
        return self.flash if found == "flash" else found


class Attend(AttnProcessor2_0):
    """diffusers' processor with the kernel that was chosen for the shape."""

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.choice = choice

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None, *args: Any, **kwargs: Any,
    ) -> torch.Tensor:  # fmt: skip
        """The layer's output."""
        rest = (encoder_hidden_states, attention_mask, *args)
        if attention_mask is not None:
            return super().__call__(attn, hidden_states, *rest, **kwargs)
        pixels = hidden_states.dim() == 4  # the VAE's (B, C, h, w)
        length = hidden_states[0, 0].numel() if pixels else hidden_states.shape[1]
        keys = length if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        width = attn.inner_dim // attn.heads
        query = (len(hidden_states), attn.heads, length, width)
        with self.choice.using(query, (*query[:2], keys, width), hidden_states.dtype):
            return super().__call__(attn, hidden_states, *rest, **kwargs)


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
    return choice


def best_ms(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of the fastest of a few calls, after one that is not timed."""
    run()
    best = float("inf")
    for _ in range(TRIALS):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            run()
            end.record()
            end.synchronize()
            best = min(best, begin.elapsed_time(end))
        else:
            began = time.perf_counter()
            run()
            best = min(best, 1e3 * (time.perf_counter() - began))
    return best


@contextmanager
def _no_warnings() -> Iterator[None]:
    """PyTorch warns at length why a kernel is not for a shape; the record has it."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _newest_flash() -> str:
    """`fa3` if FlashAttention 3 is installed and PyTorch takes it; it serves as flash then."""
    take = getattr(attention, "activate_flash_attention_impl", None)
    if take is None or importlib.util.find_spec("flash_attn_interface") is None:
        return "flash"
    try:
        take("FA3")
    except (RuntimeError, ValueError, ImportError):
        return "flash"
    return "fa3"
