"""Options found by folder and loaded by name: backends, quality options, training stages.

Each is one module (or package) with one object that says all others need to know. Its top part is
light: no framework is imported before an option is opened.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sdxl.config import schema
from sdxl.core.errors import Problem
from sdxl.core.paths import CONF, PACKAGE
from sdxl.core.store import Artifact

Check = Callable[[Any], list[Problem]]
"""What is wrong with a checked `Config`, or with this machine for it."""


def nothing(_config: Any) -> list[Problem]:
    """The check of an option that has none."""
    return []


@dataclass(frozen=True)
class Form:
    """A backend's own form of a graph: an artifact that it opens in place of the ONNX one."""

    kind: str
    key: Callable[[schema.Config, str, str, str], str]
    """Of a graph's name, and the kind and key of what it is made of."""
    get: Callable[[schema.Config, str, Artifact], Artifact]
    """Found in the store, or made now."""
    missing: Check = nothing
    """What this machine lacks to make it."""


@dataclass(frozen=True)
class Backend:
    """Who executes the model: `BACKEND` of each module in `sdxl/backends`."""

    config: type[schema.Backend]
    open: Callable[[schema.Config, dict[str, Path]], Any]
    """The `Stages`, ready to run, from the artifacts by component; without torch a `Generator`."""
    loads: Literal["nothing", "checkpoint", "graphs", "engines"]
    """How far the chain of artifacts goes before it opens."""
    needs_torch: bool = True
    parts: tuple[str, ...] = ()
    """What its `part` can leave out of a UNet call: `deep` layers, `cross`-attention, `tokens`."""
    remote: bool = False
    """A server draws: what it runs, and on what, is not of this process."""
    profiles: bool = False
    """Its stages have `modules`, and `eager()` in which they run one by one."""
    form: Form | None = None
    """What graphs are turned into before it opens; None: it opens them as they are."""
    settle: Callable[[schema.Config], None] | None = None
    """Puts the faster dtype into `config.precision`, for `precision=auto`; None: cannot tell."""
    quantized_only: tuple[str, ...] = ()
    """Settings that an unquantized model ignores; its baseline has their defaults."""
    problems_of: Check = nothing
    """Rules of its own settings."""
    missing: Check = nothing
    """What this machine lacks for them, as far as can be told without opening."""


@dataclass(frozen=True)
class QualityOption:
    """A way to score pictures: `OPTION` of the modules in `sdxl/quality` that a YAML names."""

    config: type[schema.Quality]
    open: Callable[[schema.Config, Any], Any]
    """The `Scorer` of a run, from its prompts, networks loaded."""
    problems_of: Check = nothing
    missing: Check = nothing
    beside_baseline: Callable[[schema.Config, Any, Any], dict[str, float]] | None = None
    """Further distances between the baseline's pictures and ours (uint8), averages over pairs."""


@dataclass(frozen=True)
class TrainingStage:
    """A stage of `train.py`: `STAGE` of each module in `sdxl/training/stages` that a YAML names."""

    open: Callable[[Any], Any]
    """What `training.loop.train` trains, from a `TrainConfig`."""
    folder_of: Callable[[Any], Path]
    """Where its checkpoint lies."""
    plan: Callable[[Any], dict[str, Any]] = lambda _config: {}
    """Further facts for `plan=true`."""
    outcome: Callable[[Any, Path], dict[str, Any]] = lambda _config, _made: {}
    """Further facts for the JSON line, from the networks it left."""
    pictures: Callable[[Any], Any] | None = None
    """Draws with weights that it has kept, for `evaluate=`."""
    drawing: Callable[[Any, Any], str] | None = None
    """The `run.py` line that draws with folders of networks that it has left; None: none does."""


@functools.cache
def backend_names() -> list[str]:
    """Every backend, none of them imported."""
    return _names("backends")


@functools.cache
def quality_names() -> list[str]:
    """The quality options that score something; `none` is not among them."""
    return [name for name in _names("quality") if (CONF / "quality" / f"{name}.yaml").is_file()]


def backend(name: str) -> Backend:
    """A backend by name."""
    found: Backend = importlib.import_module(f"sdxl.backends.{name}").BACKEND
    return found


def quality_option(name: str) -> QualityOption:
    """A quality option that scores something, by name."""
    found: QualityOption = importlib.import_module(f"sdxl.quality.{name}").OPTION
    return found


def training_stage(name: str) -> TrainingStage:
    """A stage of `train.py` by name."""
    found: TrainingStage = importlib.import_module(f"sdxl.training.stages.{name}").STAGE
    return found


def backends() -> dict[str, Backend]:
    """Every backend by name."""
    return {name: backend(name) for name in backend_names()}


def quality_options() -> dict[str, QualityOption]:
    """The quality options that score something, by name."""
    return {name: quality_option(name) for name in quality_names()}


def backend_of(config: schema.Config) -> Backend:
    """The backend that a configuration names."""
    return backend(config.backend.name)


def quality_of(config: schema.Config) -> QualityOption | None:
    """The quality option that a configuration names; None: nothing is scored."""
    name = config.quality.name
    return quality_option(name) if name in quality_names() else None


def _names(room: str) -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules([str(PACKAGE / room)]))
