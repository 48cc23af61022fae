"""SDXL's aspect buckets, and the sizes that one graph and its engine span."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from sdxl.config.schema import Config
from sdxl.core.errors import Problem

Size = tuple[int, int]
"""Width and height in pixels."""

BUCKETS: tuple[Size, ...] = (
    (1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216),
    (1344, 768), (768, 1344), (1536, 640), (640, 1536),
)  # fmt: skip
"""What SDXL base 1.0 was trained on most: nine of the buckets of its paper's appendix I."""
STEP = 32
"""Pixels that a size is a multiple of: the UNet halves its latents twice."""
_WORD = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})")


def read(word: str) -> Size | None:
    """`1152x896` as width and height; None if it is no size."""
    found = _WORD.fullmatch(word)
    return (int(found[1]), int(found[2])) if found else None


def around(side: int) -> list[str]:
    """The buckets of a model that draws `side` x `side`: SDXL's own at 1024.

    Else the nearest to their aspects and to the area that are multiples of 32, each once.
    """
    if side == BUCKETS[0][0]:
        found = list(BUCKETS)
    else:
        found = list(dict.fromkeys(_nearest(width / height, side) for width, height in BUCKETS))
    return [f"{width}x{height}" for width, height in found]


def _nearest(aspect: float, side: int) -> Size:
    units = range(1, 4 * side // STEP + 1)

    def distance(size: Size) -> float:
        width, height = size
        area = abs(math.log(width * height * STEP**2 / side**2))
        return 2 * abs(math.log(width / height / aspect)) + area

    width, height = min(((w, h) for w in units for h in units), key=distance)
    return STEP * width, STEP * height


def spanned(config: Config) -> tuple[Size, Size, Size]:
    """Smallest, usual and largest size that an engine takes, each direction by itself."""
    own = config.model.width, config.model.height
    every = [size for word in config.export.sizes or [] if (size := read(word))]
    if not config.export.dynamic_size or not every:
        return own, own, own
    widths, heights = zip(*every, strict=True)
    return (min(widths), min(heights)), every[0], (max(widths), max(heights))


def problems_of(config: Config, loads: str) -> Iterator[Problem]:
    """Sizes that no engine would span, or that are none."""
    given = config.export.sizes
    if given is None:
        return
    if not config.export.dynamic_size or loads != "engines":
        yield Problem(
            "`export.sizes` would be ignored: only an engine of a dynamic graph has a span",
            f"backend={config.backend.name} "
            f"export.dynamic_size={str(config.export.dynamic_size).lower()}",
            "a dynamic graph, and an engine of it",
            "backend=trt export.dynamic_size=true",
        )
        return
    found = [read(word) for word in given]
    if not given or any(size is None or size[0] % STEP or size[1] % STEP for size in found):
        yield Problem(
            "`export.sizes` cannot be read", str(given), f"WIDTHxHEIGHT, multiples of {STEP}",
            "export.sizes=[1024x1024,1152x896]",
        )  # fmt: skip
        return
    least, _, most = spanned(config)
    own = config.model.width, config.model.height
    if not all(low <= mine <= high for low, mine, high in zip(least, own, most, strict=True)):
        yield Problem(
            "the model's size is outside of `export.sizes`",
            f"{own[0]}x{own[1]}",
            f"{least[0]} to {most[0]} wide, {least[1]} to {most[1]} high",
            "export.sizes=null   # the model's buckets",
        )
