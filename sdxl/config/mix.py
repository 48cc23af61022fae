"""Requests of several sizes and step counts: `scenario.mix=[1024x1024@20:3,512x512@8]`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sdxl.config.ranges import RANGES
from sdxl.config.schema import LoadCurve
from sdxl.core.errors import Problem

_FORM = re.compile(r"(\d+)x(\d+)@(\d+)(?::(\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class Kind:
    """One kind of request; `weight`: how often it comes, beside the others'."""

    width: int
    height: int
    steps: int
    weight: float


def kinds(mix: list[str]) -> list[Kind]:
    """What a checked `scenario.mix` asks for."""
    found = [each for word in mix if (each := _FORM.fullmatch(word))]
    return [Kind(int(f[1]), int(f[2]), int(f[3]), float(f[4] or 1)) for f in found]


def problems_of(scenario: LoadCurve) -> Iterator[Problem]:
    """Words that are no kind of request, or sizes and steps that no picture can have."""
    if scenario.mix == []:
        yield Problem("`scenario.mix` is empty", "[]", "kinds of requests, or null")
    for word in scenario.mix or []:
        match = _FORM.fullmatch(word)
        if not match or float(match[4] or 1) <= 0:
            yield Problem(
                "`scenario.mix` has a kind of request that cannot be read",
                word,
                "WIDTHxHEIGHT@STEPS, with :WEIGHT where they are not equally many",
                "scenario.mix=[1024x1024@20:3,512x512@8]",
            )
            continue
        width, height, steps = (int(part) for part in match.groups()[:3])
        for name, number in (("width", width), ("height", height), ("steps", steps)):
            if not RANGES[f"model.{name}"].holds(number):
                yield RANGES[f"model.{name}"].problem(f"scenario.mix: {name}", number)
            elif name != "steps" and number % 32:
                yield Problem(
                    f"`scenario.mix`: {name} does not fit the UNet", word, "a multiple of 32"
                )
