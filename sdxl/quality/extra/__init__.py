"""Further metrics, `quality.extra=[lpips,dists]`: one small module each with one `METRIC`.

A metric is the library's that owns it; its weights are files that lie where they are said to,
checked against the published SHA-256, never fetched while a run goes on.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sdxl.config.schema import Quality
from sdxl.core import store
from sdxl.core.errors import Problem

INSTALL = "python -m pip install -c constraints.txt -e '.[metrics]'"

Single = Callable[[Any, Sequence[str]], Sequence[float]]
"""Pictures (uint8, B x H x W x 3) and their captions -> a number for each."""
Paired = Callable[[Any, Any], Sequence[float]]
"""Our pictures and the reference's -> a number for each pair."""


@dataclass(frozen=True)
class OfSet:
    """A distance between two sets of pictures: what it keeps of a batch, and how far two lie."""

    features: Callable[[Any], Any]  # pictures -> (B, D)
    distance: Callable[[Any, Any], float]


@dataclass(frozen=True)
class Weights:
    """A file, or a folder, that a metric needs."""

    default: str  # where it is looked for unless `quality.weights` says
    source: str  # what to copy there
    sha256: str = ""  # of the published file, or its first digits; empty: any is taken


@dataclass(frozen=True)
class Metric:
    """What is known of a metric before it is opened."""

    kind: Literal["single", "paired", "set"]  # of a picture, of a pair, of two sets of pictures
    higher_is_better: bool
    open: Callable[[Path, Any], Any]
    """(weights' path, torch device) -> `Single`, `Paired` or `OfSet`, networks loaded."""
    modules: tuple[str, ...] = ()
    """Importable names of the packages it needs, of the extra `metrics`."""
    weights: Weights | None = None
    official: bool = False
    """Its owner's own code and weights; False: the published definition on another library."""


@functools.cache
def metrics() -> dict[str, Metric]:
    """Every metric by name; imports no framework."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").METRIC for name in found}


def asked(quality: Quality) -> dict[str, Metric]:
    """The metrics that a configuration names, in its order; unknown names are left out."""
    known = metrics()
    return {name: known[name] for name in getattr(quality, "extra", None) or () if name in known}


def given_weights(quality: Quality) -> dict[str, str]:
    """Paths of `quality.weights=[METRIC:PATH]` by metric."""
    words = getattr(quality, "weights", None) or ()
    return {name: path for name, _, path in (word.partition(":") for word in words)}


def weights_of(quality: Quality, name: str) -> Path:
    """Where the weights of a metric lie."""
    weights = metrics()[name].weights
    given = given_weights(quality).get(name)
    return store.resolve(given or (weights.default if weights else ""))


def missing(quality: Quality) -> list[Problem]:
    """Packages and weights that are not there, with what to install and what to copy where."""
    found = []
    for name, metric in asked(quality).items():
        what = f"quality.extra=[{name}]"
        for module in metric.modules:
            if not importlib.util.find_spec(module):
                got = f"no module `{module}`"
                found.append(Problem(f"{what} needs a package", got, "the tested set", INSTALL))
        place = weights_of(quality, name)
        if metric.weights and not place.exists():
            expected = f"a copy of {metric.weights.source}"
            fix = f"quality.weights=[{name}:PATH]"
            found.append(
                Problem(f"{what} needs its weights", f"{place} is not there", expected, fix)
            )
    return found


def facts(quality: Quality, name: str) -> dict[str, Any]:
    """For the record: how to read a metric, and with which weights it was made."""
    metric, place = metrics()[name], weights_of(quality, name)
    found: dict[str, Any] = {
        "kind": metric.kind,
        "higher_is_better": metric.higher_is_better,
        "official": metric.official,
    }
    if metric.weights:
        file = place.is_file()
        digest = store.sha256(place) if file else store.fingerprint(place)
        wanted = metric.weights.sha256
        published = digest.startswith(wanted) if wanted and file else None
        found |= {"weights": str(place), "sha256": digest, "published": published}
    return found
