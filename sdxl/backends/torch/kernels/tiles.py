"""How products are cut: a list for each variant of a kernel, and what fits a device.

Made by compiling every tile for every target (`benchmarks/compile_kernels.py`): none of them spills
more than a few registers or asks for more shared memory than its device has.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """Rows, columns and depth of a block, warps, pipeline stages."""

    BM: int
    BN: int
    BK: int
    num_warps: int
    num_stages: int
    GROUP: int = 8  # blocks of rows that share their columns in the second-level cache
    TMA: bool = False  # blocks are copied by Hopper's unit for that, which needs no addresses

    def __str__(self) -> str:
        return (
            f"{self.BM}x{self.BN}x{self.BK} w{self.num_warps} s{self.num_stages}{' TMA' * self.TMA}"
        )

    @property
    def shared_bytes(self) -> int:
        """What the stages of a product of bytes need."""
        return self.num_stages * (self.BM + self.BN) * self.BK


PLAIN = (
    Tile(128, 128, 128, 8, 3),
    Tile(128, 128, 128, 8, 3, TMA=True),
    Tile(128, 256, 128, 8, 3, TMA=True),
    Tile(256, 128, 128, 8, 3, TMA=True),
    Tile(128, 128, 128, 4, 3, TMA=True),
    Tile(64, 128, 128, 4, 4),
    Tile(64, 64, 128, 4, 4),
)
"""A product with its bias, with or without a residual."""

GEGLU = (
    Tile(128, 128, 128, 8, 3),
    Tile(128, 128, 128, 8, 3, TMA=True),
    Tile(128, 256, 128, 8, 3, TMA=True),
    Tile(256, 128, 128, 8, 3, TMA=True),
    Tile(128, 128, 128, 4, 3, TMA=True),
    Tile(64, 64, 128, 4, 4),
)
"""With GEGLU and the next layer's codes; BN columns of value and gate are half as many of codes."""

CONV = (
    Tile(128, 128, 128, 8, 3),
    Tile(128, 128, 128, 8, 3, TMA=True),
    Tile(128, 256, 128, 8, 3, TMA=True),
    Tile(256, 128, 128, 8, 3, TMA=True),
    Tile(128, 128, 64, 8, 4, TMA=True),
    Tile(256, 64, 64, 8, 4, TMA=True),
    Tile(64, 64, 128, 4, 4),
)
"""Convolutions of framed pictures, with or without a residual; 320 channels are 5 blocks of 64."""

GATHERED = (
    Tile(128, 128, 128, 8, 3),
    Tile(64, 128, 128, 4, 4),
    Tile(64, 64, 128, 4, 4),
)
"""Convolutions of any other stride."""

ATTENTION = (
    Tile(128, 128, 64, 8, 3),
    Tile(128, 64, 64, 4, 3),
    Tile(64, 128, 64, 4, 3),
    Tile(64, 64, 64, 4, 4),
)
"""BM queries and BN keys at a time; BK is of no account: a head is never cut."""

SMALL = Tile(16, 16, 32, 4, 2)
"""For tests: several blocks in every direction even of a small product."""

SMALL_HEADS = Tile(16, 32, 32, 4, 2)
"""For tests of attention: several blocks of few queries and keys."""

SHARED_BYTES = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""Shared memory that one block may ask for, by compute capability (CUDA C++ Programming Guide)."""


def fitting(tiles: tuple[Tile, ...], capability: int) -> tuple[Tile, ...]:
    """The tiles whose stages fit the shared memory of a device of this compute capability."""
    limit = SHARED_BYTES.get(capability, min(SHARED_BYTES.values()))
    return tuple(
        tile for tile in tiles if tile.shared_bytes <= limit and (capability >= 90 or not tile.TMA)
    )
