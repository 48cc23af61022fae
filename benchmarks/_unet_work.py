"""What one step of SDXL's UNet computes, for `rows` pictures of 1024 x 1024: shapes and counts.

Written down from the architecture; `flop` is checked against the count of the real network, 6.7612
TFLOP for one row (PyTorch's FlopCounterMode).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TOKENS = 77
TEXT = 2048
COUNTED_TFLOP = 6.7612
"""One row of the UNet."""


@dataclass(frozen=True)
class Product:
    """rows x depth times depth x columns, `times` a step; epilogue: bare, bias, residual, geglu."""

    rows: int
    depth: int
    columns: int
    epilogue: str
    times: int

    @property
    def flop(self) -> float:
        """Of all of them."""
        return 2.0 * self.rows * self.depth * self.columns * self.times


@dataclass(frozen=True)
class Conv:
    """3 x 3 at size x size (of the output) or 1 x 1; `stride`, `residual`, `skip`: of its norm."""

    count: int
    size: int
    inner: int
    outer: int
    residual: bool = False
    skip: bool = False
    stride: int = 1
    kernel: int = 3
    normed: bool = True

    @property
    def flop(self) -> float:
        """Of one."""
        return 2.0 * self.count * self.size**2 * self.inner * self.outer * self.kernel**2


@dataclass(frozen=True)
class Attention:
    """Heads of 64."""

    count: int
    heads: int
    queries: int
    keys: int
    times: int

    @property
    def flop(self) -> float:
        """Of all of them."""
        return 4.0 * self.count * self.heads * self.queries * self.keys * 64 * self.times


LEVELS = ((1280, 1024, 60, 6), (640, 4096, 10, 5))
"""(width, tokens, transformer blocks, transformers)."""


def products(rows: int) -> Iterator[Product]:
    """All Linear layers but those of the time embedding."""
    for width, tokens, blocks, transformers in LEVELS:
        count = rows * tokens
        yield Product(count, width, 3 * width, "bare", blocks)
        yield Product(count, width, width, "bare", blocks)
        yield Product(count, width, width, "residual", 2 * blocks)
        yield Product(rows * TOKENS, TEXT, 2 * width, "bare", blocks)
        yield Product(count, width, 8 * width, "geglu", blocks)
        yield Product(count, 4 * width, width, "residual", blocks)
        yield Product(count, width, width, "bias", transformers)
        yield Product(count, width, width, "residual", transformers)


RESNETS = (
    (128, 320, 320, False), (128, 320, 320, False),
    (64, 320, 640, False), (64, 640, 640, False),
    (32, 640, 1280, False), (32, 1280, 1280, False),
    (32, 1280, 1280, False), (32, 1280, 1280, False),
    (32, 2560, 1280, True), (32, 2560, 1280, True), (32, 1920, 1280, True),
    (64, 1920, 640, True), (64, 1280, 640, True), (64, 960, 640, True),
    (128, 960, 320, True), (128, 640, 320, True), (128, 640, 320, True),
)  # fmt: skip
"""(size, channels in, channels out, with a skip), from the way down to the way up."""


def convolutions(rows: int) -> Iterator[Conv]:
    """All of them; 1 x 1 and those from and to 4 channels are not in 8 bits."""
    for size, inner, outer, skip in RESNETS:
        yield Conv(rows, size, inner, outer, skip=skip)
        yield Conv(rows, size, outer, outer, residual=True)
        if inner != outer:
            yield Conv(rows, size, inner, outer, kernel=1, normed=False)
    for size, width, stride in ((64, 320, 2), (32, 640, 2), (64, 1280, 1), (128, 640, 1)):
        yield Conv(rows, size, width, width, stride=stride, normed=False)
    yield Conv(rows, 128, 4, 320, normed=False)
    yield Conv(rows, 128, 320, 4)


def attentions(rows: int) -> Iterator[Attention]:
    """Over the picture, and over the text."""
    for width, tokens, blocks, _ in LEVELS:
        yield Attention(rows, width // 64, tokens, tokens, blocks)
        yield Attention(rows, width // 64, tokens, TOKENS, blocks)


def tflop(rows: int) -> float:
    """Of one step."""
    parts = (*products(rows), *convolutions(rows), *attentions(rows))
    return sum(part.flop for part in parts) / 1e12
