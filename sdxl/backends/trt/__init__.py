"""TensorRT engines on an NVIDIA GPU: data-centre TensorRT or TensorRT-RTX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdxl.config import engines, rules_engines, schema
from sdxl.config.plugins import Backend
from sdxl.core.errors import ConfigError, Problem

if TYPE_CHECKING:
    from sdxl.backends.trt.stages import TrtStages


@dataclass
class Config(engines.Settings):
    """How engines are built, then how they are run."""


def _missing(config: schema.Config) -> list[Problem]:
    """What this machine lacks to build engines and to run them, found before any build."""
    return list(rules_engines.missing(config))


def _open(config: schema.Config, artifacts: dict[str, Path]) -> TrtStages:
    """Load the engines; `artifacts`: each graph's engine folder."""
    from sdxl.backends.trt.stages import TrtStages

    if problems := _missing(config):
        raise ConfigError(problems)
    return TrtStages(config, artifacts)


BACKEND = Backend(
    Config,
    _open,
    "engines",
    parts=("deep", "cross"),
    problems_of=lambda config: list(rules_engines.problems_of(config)),
    missing=_missing,
)
