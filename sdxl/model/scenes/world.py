"""What a scene is, how scenes are drawn from a seed, and what is kept out of training.

One to three solids stand on a table. Two objects of a scene never share colour and shape, so a
caption can name each. Distances are in table units: x to the right, y away from the camera.
"""

from __future__ import annotations

import hashlib
import math
import operator
import random
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from sdxl.model.scenes import camera

LOOK = 2
"""Raise when scenes are drawn or rendered differently: what was made of them is made anew."""
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SHAPES = ("sphere", "cube", "cylinder", "cone")
SIZES = ("small", "large")
MATERIALS = ("matte", "metal")
RELATIONS = ("left of", "right of", "behind", "in front of")

RADII = {"small": 0.48, "large": 0.70}
"""Half the extent of a solid, in table units."""
MIDDLE = 0.95
"""Height of a solid's middle, in half extents."""
REACH = (1.25, 1.1)
"""Largest |x| and |y| of a centre."""
CLEARANCE = 0.1
APART, INSIDE = 0.9, 0.9
"""How far solids are from each other and from the picture's edge, in radii of their discs."""
MARGIN = 0.55
"""By how much a stated relation holds at least, in table units."""

HELD_OUT = frozenset(
    {("orange", "cube"), ("cyan", "sphere"), ("purple", "cone"), ("white", "cylinder")}
)
"""Colour and shape together of no training scene; each colour and each shape alone is common."""
HELD_OUT_PAIRS = 10
"""One of so many pairs of (colour, shape) is in no training scene."""


@dataclass(frozen=True)
class Solid:
    """One object: attributes, centre on the table and turn about the vertical (radians)."""

    colour: str
    shape: str
    size: str
    material: str
    x: float
    y: float
    turn: float

    @property
    def kind(self) -> tuple[str, str]:
        """Colour and shape, by which captions name it."""
        return self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    """One to three solids; the relation, if stated, is the first's to the second."""

    solids: tuple[Solid, ...]
    relation: str | None = None

    def described(self) -> dict[str, Any]:
        """The scene as JSON-ready values."""
        return asdict(self)

    @property
    def held_out(self) -> bool:
        """Whether a combination in it is kept from training."""
        kinds = [solid.kind for solid in self.solids]
        return any(kind in HELD_OUT for kind in kinds) or any(
            _pair_held_out(*pair) for pair in combinations(kinds, 2)
        )


def _pair_held_out(one: tuple[str, str], other: tuple[str, str]) -> bool:
    name = " ".join(sorted((" ".join(one), " ".join(other))))
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_PAIRS == 0


def holds(relation: str, one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether centre `one` is `relation` centre `other`, both (x, y)."""
    across, away = one[0] - other[0], one[1] - other[1]
    return {
        "left of": across < 0,
        "right of": across > 0,
        "behind": away > 0,
        "in front of": away < 0,
    }[relation]


def draw(random_: random.Random, count: int | None = None) -> Scene:
    """A scene of `count` solids (one to three if None); none touch, each is seen."""
    count = count or random_.choices((1, 2, 3), (0.35, 0.4, 0.25))[0]
    kinds = random_.sample([(colour, shape) for colour in COLOURS for shape in SHAPES], count)
    sizes = [random_.choice(SIZES) for _ in kinds]
    materials = [random_.choice(MATERIALS) for _ in kinds]
    relation = random_.choice(RELATIONS) if count >= 2 else None
    centres = _placed(random_, sizes, relation)
    turns = [random_.uniform(0, math.pi / 2) for _ in kinds]
    solids = tuple(
        Solid(*kind, size, material, round(x, 3), round(y, 3), round(turn, 3))
        for kind, size, material, (x, y), turn in zip(
            kinds, sizes, materials, centres, turns, strict=True
        )
    )
    return Scene(solids, relation)


def _placed(
    random_: random.Random, sizes: list[str], relation: str | None
) -> list[tuple[float, float]]:
    """Centres (x, y) of solids that do not touch, each seen; hundreds are tried for three."""
    uniform, (width, depth) = random_.random, REACH
    apart = [RADII[one] + RADII[other] + CLEARANCE for one, other in combinations(sizes, 2)]
    while True:
        centres = [(2 * width * uniform() - width, 2 * depth * uniform() - depth) for _ in sizes]
        if relation is not None and not _clear(relation, *centres[:2]):
            continue
        far = map(math.dist, *zip(*combinations(centres, 2), strict=True)) if apart else ()
        if all(map(operator.gt, far, apart)) and _seen(centres, sizes):
            return centres


def disc(x: float, y: float, size: str) -> tuple[float, float, float]:
    """Where a picture shows the solid that stands there: its middle and its radius.

    From the left, from the top; all as shares of the picture's width.
    """
    across, down, unit = camera.seen(x, y, MIDDLE * RADII[size])
    return across, down, unit * RADII[size]


def _seen(centres: list[tuple[float, float]], sizes: list[str]) -> bool:
    """No solid hides much of another, and the picture's edge cuts next to nothing of any."""
    discs = [disc(*centre, size) for centre, size in zip(centres, sizes, strict=True)]
    inside = all(min(x, y, 1 - x, 1 - y) > INSIDE * radius for x, y, radius in discs)
    return inside and all(
        math.dist(one[:2], other[:2]) > APART * (one[2] + other[2])
        for one, other in combinations(discs, 2)
    )


def _clear(relation: str, one: tuple[float, float], other: tuple[float, float]) -> bool:
    """The relation holds by a margin, and along the main axis of the two centres."""
    across, away = abs(one[0] - other[0]), abs(one[1] - other[1])
    main, side = (across, away) if relation in ("left of", "right of") else (away, across)
    return main > MARGIN and main > 0.8 * side and holds(relation, one, other)


def training_scene(seed: int, number: int) -> Scene:
    """Scene `number` of a training set: never one with a held-out combination."""
    random_ = random.Random(f"train/{seed}/{number}")
    while True:
        scene = draw(random_)
        if not scene.held_out:
            return scene


def any_scene(seed: int, number: int) -> Scene:
    """Scene `number` of all that can be: what a judge learns from, held-out combinations too."""
    return draw(random.Random(f"any/{seed}/{number}"))


def held_out_scene(seed: int, number: int) -> Scene:
    """Scene `number` of an evaluation set: one to three solids in turn, always held out."""
    random_ = random.Random(f"held out/{seed}/{number}")
    while True:
        scene = draw(random_, 1 + number % 3)
        if scene.held_out:
            return scene
