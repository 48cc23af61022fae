"""A configuration as a doctor meets it."""

from __future__ import annotations

from sdxl.config.schema import Config
from tests.composing import checked


def configure(*overrides: str) -> Config:
    return checked("run", *overrides)
