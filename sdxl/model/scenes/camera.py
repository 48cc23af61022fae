"""The camera of all pictures: where it stands, and where it shows a point."""

from __future__ import annotations

import math

Vector = tuple[float, float, float]

PLACE: Vector = (0.0, -6.6, 4.3)
TARGET: Vector = (0.0, -0.05, 0.40)
REACH = math.tan(math.radians(14.0))
"""Half the width of what it sees, at distance one."""


def _unit(vector: Vector) -> Vector:
    length = math.hypot(*vector)
    return vector[0] / length, vector[1] / length, vector[2] / length


def _cross(one: Vector, other: Vector) -> Vector:
    (a, b, c), (x, y, z) = one, other
    return b * z - c * y, c * x - a * z, a * y - b * x


FORWARD = _unit((TARGET[0] - PLACE[0], TARGET[1] - PLACE[1], TARGET[2] - PLACE[2]))
RIGHT = _unit(_cross(FORWARD, (0, 0, 1)))
UP = _cross(RIGHT, FORWARD)


def seen(x: float, y: float, z: float) -> tuple[float, float, float]:
    """Where a point is shown, from the left and from the top, and how long a unit is there.

    All as shares of the picture's width.
    """
    x, y, z = x - PLACE[0], y - PLACE[1], z - PLACE[2]
    ahead, across, above = (a * x + b * y + c * z for a, b, c in (FORWARD, RIGHT, UP))
    unit = 0.5 / (ahead * REACH)
    return 0.5 + across * unit, 0.5 - above * unit, unit
