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

TYPED = "command-line"
"""Hydra's word for the place of a folder that `--config-dir` adds."""
CONFIG_DIR = "--config-dir="


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

    name = Path(sys.argv[0]).stem
    if not HydraConfig.initialized():
        return line_of(name, sys.argv[1:])
    hydra = HydraConfig.get()
    added = (each.path for each in hydra.runtime.config_sources if each.provider == TYPED)
    return line_of(name, hydra.overrides.task, next(added, None))


def line_of(name: str, words: Sequence[str], config_dir: str | None = None) -> str:
    """The line that measures a cell alone, wherever it is typed."""
    option = [f"{CONFIG_DIR}{Path(config_dir).absolute()}"] if config_dir else []
    return shlex.join([*program(name), *map(secrets.hide, alone([*option, *words]))])


def alone(words: Sequence[str]) -> list[str]:
    """The words of a cell as one run takes them: what `+sweep=` sets for all cells in its place."""
    given = {word.partition("=")[0] for word in words}
    added = [Path(w.removeprefix(CONFIG_DIR)) for w in words if w.startswith(CONFIG_DIR)]
    found = []
    for word in words:
        name = word.removeprefix("+sweep=")
        files = (folder / "sweep" / f"{name}.yaml" for folder in (CONF, *added))
        file = next(filter(Path.is_file, files), None)
        if name == word or not file:
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
