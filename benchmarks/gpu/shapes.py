"""What SDXL's UNet multiplies at 1024 x 1024 with 16 rows, and the same in small to rehearse."""

from __future__ import annotations

from dataclasses import dataclass

ROWS = 16
"""Rows of the UNet: eight pictures with guidance."""


@dataclass(frozen=True)
class Linear:
    """A product (rows, width) x (outputs, width)^T and what follows it.

    after: `bias`; `residual`, added; `geglu`, with the next layer's codes; `columns`: a scale per
    column, as joined q, k and v have.
    """

    name: str
    rows: int
    width: int
    outputs: int
    after: str

    def __str__(self) -> str:
        return f"{self.name} {self.rows}x{self.width}x{self.outputs} {self.after}"


@dataclass(frozen=True)
class Convolution:
    """A 3 x 3 convolution of `rows` images (size, size, inner), with a residual."""

    rows: int
    size: int
    inner: int
    outer: int

    def __str__(self) -> str:
        return f"conv {self.rows}x{self.size}x{self.size}x{self.inner}->{self.outer}"


@dataclass(frozen=True)
class Heads:
    """Attention of `rows` images: heads of `width`, queries, keys."""

    rows: int
    heads: int
    length: int
    keys: int
    width: int = 64

    def __str__(self) -> str:
        return f"attention {self.rows}x{self.heads}x{self.length}x{self.keys}x{self.width}"


@dataclass(frozen=True)
class Shapes:
    """All of them; `norms`: (rows, width) of LayerNorms, `groups`: images (size, channels)."""

    linear: tuple[Linear, ...]
    conv: tuple[Convolution, ...]
    heads: tuple[Heads, ...]
    norms: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, int, int], ...]


def _level(name: str, rows: int, width: int) -> tuple[Linear, ...]:
    return (
        Linear(f"{name} ff1", rows, width, 8 * width, "geglu"),
        Linear(f"{name} ff2", rows, 4 * width, width, "residual"),
        Linear(f"{name} out", rows, width, width, "residual"),
        Linear(f"{name} qkv", rows, width, 3 * width, "columns"),
        Linear(f"{name} q", rows, width, width, "bias"),
    )


def real(rows: int) -> Shapes:
    """Those of a UNet's step over so many rows."""
    return Shapes(
        linear=_level("32", rows * 1024, 1280) + _level("64", rows * 4096, 640),
        conv=(
            Convolution(rows, 32, 1280, 1280),
            Convolution(rows, 64, 640, 640),
            Convolution(rows, 128, 320, 320),
            Convolution(rows, 32, 2560, 1280),
        ),
        heads=(
            Heads(rows, 20, 1024, 1024),
            Heads(rows, 10, 4096, 4096),
            Heads(rows, 20, 1024, 77),
            Heads(rows, 10, 4096, 77),
        ),
        norms=((rows * 1024, 1280), (rows * 4096, 640)),
        groups=((rows, 128, 320), (rows, 64, 640), (rows, 32, 1280)),
    )


SMALL = Shapes(
    linear=(
        Linear("ff1", 32, 32, 64, "geglu"),
        Linear("out", 32, 32, 32, "residual"),
        Linear("qkv", 32, 32, 96, "columns"),
    ),
    conv=(Convolution(1, 6, 32, 32),),
    heads=(Heads(1, 2, 20, 20, 32), Heads(1, 2, 20, 7, 32)),
    norms=((16, 64),),
    groups=((1, 6, 64),),
)
