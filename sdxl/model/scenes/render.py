"""Rays against four kinds of solid on a table: soft light, soft shadows, no other dependency.

All pictures share the camera and the lamp, so the rays are made once. Each sub-pixel looks at
another point of the lamp, which makes shadows soft at the price of hard ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sdxl.model.scenes import camera, solids
from sdxl.model.scenes.world import MIDDLE, RADII, Scene, Solid

Floats = NDArray[np.float32]

SAMPLES = 2
"""Rays per pixel in each direction."""

_LAMP = (-3.2, -3.4, 6.0)
_LAMP_RADIUS = 0.9
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))

_TABLE = (0.60, 0.56, 0.52)
_SKY = (0.86, 0.90, 0.96)
_GROUND = (0.38, 0.35, 0.32)
_RGB = {
    "red": (0.82, 0.07, 0.07),
    "orange": (0.98, 0.40, 0.02),
    "yellow": (0.95, 0.82, 0.06),
    "green": (0.06, 0.52, 0.12),
    "cyan": (0.08, 0.75, 0.80),
    "blue": (0.08, 0.16, 0.82),
    "purple": (0.46, 0.10, 0.62),
    "white": (0.95, 0.95, 0.95),
}
_AMBIENT, _LIGHT = 0.42, 0.72
_LIFT = 2e-3
"""How far above a surface its shadow rays begin, in table units."""
_PIXEL, _PENUMBRA, _DARKENED = 0.1, 0.45, 2.6
"""Slack of a pixel and of a soft shadow, in table units; reach of darkening, in radii."""


def render(scenes: Iterable[Scene], size: int = 64, threads: int = 1) -> NDArray[np.uint8]:
    """uint8 pictures (B, size, size, 3) of the scenes; the same for any number of threads."""
    if threads == 1:
        return np.stack([picture(scene, size) for scene in scenes])
    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(lambda scene: picture(scene, size), scenes)))


def picture(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """One scene as uint8 (size, size, 3)."""
    view = _view(size)
    pixels = _touched(scene, view)
    rays = view.rays[:, pixels].reshape(3, -1)
    lamp = np.tile(view.lamp, len(pixels))
    light = view.empty.copy()
    traced = _trace(scene, view.camera, rays, lamp)
    light[:, pixels] = traced.reshape(3, len(pixels), SAMPLES**2).mean(2)
    image = light.reshape(3, size, size).transpose(1, 2, 0)
    return (image.clip(0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


def _trace(scene: Scene, camera: Floats, rays: Floats, lamp: Floats) -> Floats:
    """Linear light (3, P) along rays from the camera, each with its own point of the lamp."""
    distance = -camera[2] / rays[2]  # the table: the camera looks down everywhere
    normal = np.zeros_like(rays)
    normal[2] = 1
    colour = np.repeat(np.array(_TABLE, np.float32)[:, None], rays.shape[1], axis=1)
    metal = np.zeros(rays.shape[1], bool)
    for solid in scene.solids:
        seen = np.flatnonzero(_near(solid, camera, rays))
        t, n = solids.hit(solid, RADII[solid.size], camera, rays[:, seen])
        first = t < distance[seen]
        where = seen[first]
        distance[where], normal[:, where] = t[first], n[:, first]
        colour[:, where] = np.array(_RGB[solid.colour], np.float32)[:, None]
        metal[where] = solid.material == "metal"
    point = camera + distance * rays + _LIFT * normal
    to_lamp = lamp - point
    to_lamp /= np.sqrt(np.einsum("ip,ip->p", to_lamp, to_lamp))
    surface = _Surface(point, normal, colour, metal)
    lit = np.ones_like(distance)
    for solid in scene.solids:
        there = np.flatnonzero(_near(solid, point, to_lamp))
        t, _ = solids.hit(solid, RADII[solid.size], point[:, there], to_lamp[:, there])
        lit[there[np.isfinite(t)]] = 0
    return _shade(scene.solids, surface, rays, to_lamp, lit)


def _touched(scene: Scene, view: _View) -> NDArray[np.intp]:
    """Pixels that a solid, its shadow or its darkening may change; the rest is empty table."""
    touched = np.zeros(view.rays.shape[1], bool)
    for solid in scene.solids:
        radius = RADII[solid.size]
        apart = (view.table[0] - solid.x) ** 2 + (view.table[1] - solid.y) ** 2
        touched |= apart < (_DARKENED * radius) ** 2
        touched |= _near(solid, view.camera, view.centres, _PIXEL)
        touched |= _near(solid, view.table, view.to_lamp, _PENUMBRA)
    return np.flatnonzero(touched)


@dataclass(frozen=True)
class _Surface:
    """What P rays meet."""

    point: Floats  # (3, P), lifted off the surface
    normal: Floats  # (3, P), unit length
    colour: Floats  # (3, P)
    metal: NDArray[np.bool_]  # (P,)


def _shade(
    things: Sequence[Solid], surface: _Surface, rays: Floats, to_lamp: Floats, lit: Floats
) -> Floats:
    """Linear light (3, P): diffuse and highlight for matte, mirrored surroundings for metal."""
    point, normal, colour = surface.point, surface.normal, surface.colour
    facing = np.einsum("ip,ip->p", normal, to_lamp).clip(0) * lit
    mirrored = rays - 2 * np.einsum("ip,ip->p", normal, rays) * normal
    glance = np.einsum("ip,ip->p", mirrored, to_lamp).clip(0) * lit
    open_sky = 0.75 + 0.25 * normal[2]
    for solid in things:  # solids darken the table, and each other, close by
        radius = RADII[solid.size]
        apart = (point[0] - solid.x) ** 2 + (point[1] - solid.y) ** 2 + point[2] ** 2
        open_sky -= 0.30 * np.exp(-apart / (0.9 * radius) ** 2) * (normal[2] > 0.99)
    diffuse = colour * (_AMBIENT * open_sky + _LIGHT * facing)
    matte = diffuse + 0.10 * glance**6
    upward = (0.5 + 0.5 * mirrored[2]).clip(0, 1) ** 0.7
    sky, ground = (np.array(c, np.float32)[:, None] for c in (_SKY, _GROUND))
    around = ground + (sky - ground) * upward
    shiny = colour * (0.25 * (_AMBIENT + _LIGHT * facing) + 0.75 * around) + 0.9 * glance**40
    shaded: Floats = np.where(surface.metal, shiny, matte)
    return shaded


def _near(solid: Solid, origin: Floats, rays: Floats, slack: float = 0.0) -> NDArray[np.bool_]:
    """Which unit rays (3, P) pass the ball around a solid, widened by `slack`, going forward."""
    radius = RADII[solid.size]
    centre = np.array([[solid.x], [solid.y], [MIDDLE * radius]], np.float32)
    offset = centre - origin
    ahead = np.einsum("ip,ip->p", np.broadcast_to(offset, rays.shape), rays)
    aside = np.einsum("ip,ip->p", offset, offset) - ahead**2
    near: NDArray[np.bool_] = (aside < (solids.BALL * radius + slack) ** 2) & (ahead > 0)
    return near


@dataclass(frozen=True)
class _View:
    """What all pictures of one size share; P pixels of S sub-pixels."""

    camera: Floats  # (3, 1)
    rays: Floats  # (3, P, S), unit length
    lamp: Floats  # (3, S): the point of the lamp that each sub-pixel sees
    centres: Floats  # (3, P): rays through the pixels' middles
    table: Floats  # (3, P): where those meet the table
    to_lamp: Floats  # (3, P): from there to the lamp's middle, unit length
    empty: Floats  # (3, P): linear light of the empty table


@cache
def _view(size: int) -> _View:
    place = np.array(camera.PLACE, np.float32)[:, None]
    fine = _directions(size * SAMPLES).reshape(3, size, SAMPLES, size, SAMPLES)
    rays = np.ascontiguousarray(fine.transpose(0, 1, 3, 2, 4)).reshape(3, size**2, SAMPLES**2)
    centres = _directions(size)
    table = place - place[2] / centres[2] * centres
    to_lamp = np.array(_LAMP, np.float32)[:, None] - table
    to_lamp /= np.linalg.norm(to_lamp, axis=0)
    # One point of the lamp for each sub-pixel, on a sunflower's spiral.
    number = np.arange(SAMPLES**2)
    radius, angle = _LAMP_RADIUS * np.sqrt((number + 0.5) / SAMPLES**2), number * _GOLDEN_ANGLE
    disc = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros_like(angle)])
    lamp = (np.array(_LAMP)[:, None] + disc).astype(np.float32)
    flat = rays.reshape(3, -1)
    empty = _trace(Scene(()), place, flat, np.tile(lamp, size**2))
    return _View(place, rays, lamp, centres, table, to_lamp,
                 empty.reshape(3, size**2, -1).mean(2))  # fmt: skip


def _directions(size: int) -> Floats:
    """Unit rays (3, size * size) through the middles of a square grid."""
    forward, right, up = map(np.array, (camera.FORWARD, camera.RIGHT, camera.UP))
    line = ((np.arange(size) + 0.5) / size * 2 - 1) * camera.REACH
    v, u = np.meshgrid(-line, line, indexing="ij")
    rays = (forward + u[..., None] * right + v[..., None] * up).reshape(-1, 3).T
    return (rays / np.linalg.norm(rays, axis=0)).astype(np.float32)
