"""The words that were typed: how a cell is reproduced, and without its secrets."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

from sdxl.config.content_key import plain
from sdxl.config.schema import Config, Tracking
from sdxl.core.paths import program
from sdxl.core.records import credentials, without_credentials


def public(config: Config) -> dict[str, Any]:
    """The configuration for records and MLflow, credentials removed from URIs."""
    found: dict[str, Any] = plain(config)
    if uri := found["tracking"]["uri"]:
        found["tracking"]["uri"] = without_credentials(uri)
    return found


def forget_credentials(tracking: Tracking, folder: Path) -> None:
    """Hydra wrote the command's words into the output folder before we ran: take secrets out."""
    if credentials(tracking.uri or ""):
        for path in [*folder.glob(".hydra/*.yaml"), folder.parent / "multirun.yaml"]:
            if path.is_file():
                path.write_text(scrub(path.read_text(), tracking))


def scrub(text: str, tracking: Tracking) -> str:
    """`text` without the tracking server's credentials, plain or as Hydra escapes them."""
    secret = credentials(tracking.uri or "")
    return text.replace(secret, "").replace(re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", secret), "")


def in_multirun() -> bool:
    """Whether Hydra runs this job as a cell of a multirun."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def command_line() -> str:
    """The line that reproduces this cell."""
    from hydra.core.hydra_config import HydraConfig

    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else sys.argv[1:]
    split = (word.partition("=") for word in words)
    safe = [f"{name}{sign}{without_credentials(value)}" for name, sign, value in split]
    return shlex.join([*program(Path(sys.argv[0]).stem), *safe])
