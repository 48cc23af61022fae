"""Where rays meet spheres, cubes, cylinders and cones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdxl.model.scenes.world import Solid

Floats = NDArray[np.float32]

BALL = 1.4
"""Radius of a ball around any solid of radius 1, about its middle."""

_HALF, _HEIGHT = 0.82, 1.6
"""Half the side of the cube, radius of the cylinder; their height, for solids of radius 1."""
_BASE, _POINT = 1.0, 1.9
"""Radius and height of the cone."""
_TINY = 1e-9


def hit(solid: Solid, radius: float, origin: Floats, rays: Floats) -> tuple[Floats, Floats]:
    """Distance (P,), inf where a ray misses, and outward unit normal (3, P).

    origin: (3, 1) or (3, P); rays: (3, P) of any length, distances are in multiples of it.
    """
    cos, sin = math.cos(solid.turn), math.sin(solid.turn)
    o = _turned((origin - np.array([[solid.x], [solid.y], [0]], np.float32)) / radius, cos, sin)
    d = _turned(rays / radius, cos, sin)
    with np.errstate(divide="ignore", invalid="ignore"):
        t, normal = _KINDS[solid.shape](o, d)
    return t, _turned(normal, cos, -sin)


def _turned(vector: Floats, cos: float, sin: float) -> Floats:
    """Coordinates (3, P) in a frame turned about the vertical."""
    x, y, z = vector
    return np.stack([cos * x + sin * y, cos * y - sin * x, z])


def _sphere(o: Any, d: Any) -> tuple[Floats, Floats]:
    up = np.array([[0], [0], [1]], np.float32)
    t = _near_root((d * d).sum(0), (d * (o - up)).sum(0), ((o - up) ** 2).sum(0) - 1)
    return t, o + np.where(np.isfinite(t), t, 0) * d - up


def _cube(o: Any, d: Any) -> tuple[Floats, Floats]:
    middle = np.array([[0], [0], [_HEIGHT / 2]], np.float32)
    half = np.array([[_HALF], [_HALF], [_HEIGHT / 2]], np.float32)
    inverse = 1 / np.where(np.abs(d) < _TINY, _TINY, d)
    one, other = (middle - half - o) * inverse, (middle + half - o) * inverse
    near, far = np.minimum(one, other), np.maximum(one, other)
    entry, axis = near.max(0), near.argmax(0)
    t = np.where((entry < far.min(0)) & (entry > 0), entry, np.inf).astype(np.float32)
    normal = np.zeros_like(d)
    column = np.arange(d.shape[1])
    normal[axis, column] = -np.sign(d[axis, column])
    return t, normal


def _cylinder(o: Any, d: Any) -> tuple[Floats, Floats]:
    a = d[0] ** 2 + d[1] ** 2
    b = o[0] * d[0] + o[1] * d[1]
    side = _near_root(a, b, o[0] ** 2 + o[1] ** 2 - _HALF**2)
    z = o[2] + side * d[2]
    side = np.where((z >= 0) & (z <= _HEIGHT), side, np.inf)
    lid = _disc(o, d, _HEIGHT, _HALF)
    t = np.minimum(side, lid)
    point = o + np.where(np.isfinite(t), t, 0) * d
    normal = np.where(lid < side, [[0], [0], [1]], point / _HALF * [[1], [1], [0]])
    return t, normal.astype(np.float32)


def _cone(o: Any, d: Any) -> tuple[Floats, Floats]:
    slope = _BASE / _POINT
    depth, k = o[2] - _POINT, slope**2
    a = d[0] ** 2 + d[1] ** 2 - k * d[2] ** 2
    b = o[0] * d[0] + o[1] * d[1] - k * depth * d[2]
    c = o[0] ** 2 + o[1] ** 2 - k * depth**2
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    missed = b * b - a * c < 0
    t: Any = np.full(d.shape[1], np.inf, np.float32)
    for candidate in ((-b - root) / a, (-b + root) / a):
        z = o[2] + candidate * d[2]
        good = (candidate > 0) & (z >= 0) & (z <= _POINT) & ~missed
        t = np.where(good & (candidate < t), candidate, t)
    point = o + np.where(np.isfinite(t), t, 0) * d
    reach = np.sqrt(np.maximum(point[0] ** 2 + point[1] ** 2, _TINY))
    length = math.hypot(1, slope)
    normal = np.stack([point[0] / reach, point[1] / reach, np.full_like(reach, slope)]) / length
    return t.astype(np.float32), normal.astype(np.float32)


def _near_root(a: Any, b: Any, c: Any) -> Any:
    """Smaller positive root of a t^2 + 2 b t + c, inf if there is none; starts outside."""
    under = b * b - a * c
    t = (-b - np.sqrt(np.maximum(under, 0))) / np.maximum(a, _TINY)
    return np.where((under > 0) & (t > 0), t, np.inf).astype(np.float32)


def _disc(o: Any, d: Any, height: float, radius: float) -> Any:
    t = (height - o[2]) / d[2]
    x, y = o[0] + t * d[0], o[1] + t * d[1]
    return np.where((t > 0) & (x * x + y * y <= radius**2), t, np.inf).astype(np.float32)


_KINDS = {"sphere": _sphere, "cube": _cube, "cylinder": _cylinder, "cone": _cone}
