"""The words that were typed: how a cell is reproduced, and without its secrets."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sdxl.config.content_key import plain
from sdxl.config.schema import Config
from sdxl.config.words import typed
from sdxl.core import secrets
from sdxl.core.paths import CONF, program


def public(config: Config) -> dict[str, Any]:
    """The configuration for records and MLflow, without secrets."""
    found: dict[str, Any] = secrets.hidden(plain(config))
    return found


def forget_secrets(folder: Path) -> None:
    """Hydra wrote the composition into the output folder before we ran: take secrets out."""
    for path in [*folder.glob(".hydra/*.yaml"), folder.parent / "multirun.yaml"]:
        if path.is_file():
            text = path.read_text()
            if (clean := secrets.hide(text)) != text:
                path.write_text(clean)


def in_multirun() -> bool:
    """Whether Hydra runs this job as a cell of a multirun."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def command_line() -> str:
    """The line that reproduces this cell."""
    from hydra.core.hydra_config import HydraConfig

    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else sys.argv[1:]
    return shlex.join([*program(Path(sys.argv[0]).stem), *map(secrets.hide, alone(words))])


def alone(words: Sequence[str]) -> list[str]:
    """The words of a cell as one run takes them: what `+sweep=` sets for all cells in its place."""
    given = {word.partition("=")[0] for word in words}
    found = []
    for word in words:
        name = word.removeprefix("+sweep=")
        file = CONF / "sweep" / f"{name}.yaml"
        if name == word or not file.is_file():
            found.append(word)
            continue
        for key, value in _settings(OmegaConf.to_container(OmegaConf.load(file))):
            found += shlex.split(typed(key, value)) if key not in given else []
    return found


def _settings(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a file sets, Hydra's own part left out, by dotted name."""
    for name, value in node.items():
        if isinstance(value, dict) and name != "hydra":
            yield from _settings(value, f"{prefix}{name}.")
        elif name != "hydra":
            yield f"{prefix}{name}", value


def outside(config: Config) -> list[str]:
    """What did not come with this project and decides what runs: configuration, code."""
    from hydra.core.hydra_config import HydraConfig

    found = []
    if HydraConfig.initialized():
        for source in HydraConfig.get().runtime.config_sources:
            if source.schema == "file" and Path(source.path) != CONF:
                found.append(f"configuration from {source.path}")
    if code := config.model.diffusers_src:
        found.append(f"code of diffusers from {code} (model.diffusers_src)")
    return found
