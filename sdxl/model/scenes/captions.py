"""Scenes in words: one meaning, many wordings."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from sdxl.core import terminal
from sdxl.model.scenes.world import Scene, Solid, held_out_scene, training_scene

_MATERIAL_WORDS = {"matte": ("matte", "dull", "rubber"), "metal": ("metal", "shiny", "metallic")}
_SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
_RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "behind": ("behind",),
    "in front of": ("in front of",),
}
_SINGLE = ("{0}", "{0} on a table", "a picture of {0}", "there is {0}", "a scene with {0}")
_PAIR = ("{0} {r} {1}", "{0} is {r} {1}", "a picture of {0} {r} {1}", "{0} {r} {1} on a table")
_TRIPLE = ("{0} {r} {1}, and {2}", "{0} is {r} {1}; {2} is there too", "{0} {r} {1} with {2}")


LONG = 400
"""So many take seconds."""


@dataclass(frozen=True)
class Asked:
    """What a caption asks of one solid; None where it does not say."""

    colour: str
    shape: str
    size: str | None
    material: str | None


@dataclass(frozen=True)
class Caption:
    """A caption and what it asks: the solids as named, the first's relation to the second."""

    text: str
    asked: tuple[Asked, ...]
    relation: str | None


def describe(scene: Scene, random_: random.Random) -> Caption:
    """A caption of the scene: colour and shape always, size and material half of the time."""
    asked = tuple(_asked(solid, random_) for solid in scene.solids)
    nouns = [_noun(one, random_) for one in asked]
    templates = (_SINGLE, _PAIR, _TRIPLE)[len(nouns) - 1]
    relation = random_.choice(_RELATION_WORDS[scene.relation]) if scene.relation else ""
    text = random_.choice(templates).format(*nouns, r=relation)
    return Caption(text, asked, scene.relation)


def training(count: int, seed: int = 0) -> list[Caption]:
    """One caption for each training scene of a seed."""
    return [
        describe(training_scene(seed, n), random.Random(f"words/{seed}/{n}")) for n in range(count)
    ]


def held_out(count: int, seed: int = 0) -> list[Caption]:
    """Captions of held-out scenes: one, two and three solids in turn."""
    if count >= LONG:
        terminal.say(f"describing {count:,} scenes, a few milliseconds each")
    return [_held_out(seed, n) for n in range(count)]


@functools.cache
def _held_out(seed: int, n: int) -> Caption:
    return describe(held_out_scene(seed, n), random.Random(f"held out/{seed}/{n}"))


def _asked(solid: Solid, random_: random.Random) -> Asked:
    size = solid.size if random_.random() < 0.5 else None
    material = solid.material if random_.random() < 0.5 else None
    return Asked(solid.colour, solid.shape, size, material)


def _noun(asked: Asked, random_: random.Random) -> str:
    words = [random_.choice(_SIZE_WORDS[asked.size])] if asked.size else []
    words.append(asked.colour)
    if asked.material:
        words.append(random_.choice(_MATERIAL_WORDS[asked.material]))
    phrase = " ".join([*words, asked.shape])
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
