"""A configuration is data: what would run code of its choice is refused before Hydra starts it.

Hydra instantiates `_target_` of callbacks, launchers and sweepers, logging instantiates classes
that it is given by name, and `pkg://` imports a package. Every composition passes here, whether
its words were typed or stand in a file, before anything of it is used.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdxl.core.errors import ConfigError, Problem, UserError

TARGETS = re.compile(
    r"hydra\._internal\.core_plugins\.basic_(launcher\.BasicLauncher|sweeper\.BasicSweeper)"
    r"|hydra_plugins\.sdxl_sweeper\.SdxlSweeper"
    r"|hydra_plugins\.hydra_joblib_launcher\.joblib_launcher\.JoblibLauncher"
    r"|hydra_plugins\.hydra_submitit_launcher\.submitit_launcher\.(Local|Slurm)Launcher"
    r"|hydra_plugins\.hydra_optuna_sweeper\.optuna_sweeper\.OptunaSweeper"
    r"|optuna\.samplers\.\w+"
)
"""What Hydra may instantiate: the plug-ins that come with this project or are documented."""
_LOGGING = re.compile(r"logging\.(Stream|File|Null)Handler|logging\.Formatter")
_PACKAGES = re.compile(r"pkg://(hydra\.conf|hydra_plugins\..*)")
_VARIABLES = re.compile(
    r"(CUDA|OMP|MKL|OPENBLAS|NCCL|MLFLOW|HF_HUB|TOKENIZERS)_\w+|SDXL_STORE|HF_HOME|NO_PROXY|TZ"
)
"""Environment that `hydra.job.env_set` may set: no search path, preload or start-up file."""
_SHELL = ("setup", "python", "additional_parameters", "srun_args", "custom_search_space")
"""Settings of launchers and sweepers that are shell or import by name: the user's to type."""
ALLOWED = "the plug-ins of docs/security.md"


def install() -> None:
    """Let every composition of this process pass here; the second time changes nothing."""
    if hasattr(ConfigLoaderImpl.load_configuration, "__wrapped__"):
        return
    loading, opening = ConfigLoaderImpl.load_configuration, ConfigRepository.initialize_sources

    @functools.wraps(loading)
    def load(self: ConfigLoaderImpl, *words: Any, **named: Any) -> DictConfig:
        found = loading(self, *words, **named)
        if problems := list(_problems(found)):
            raise ConfigError(problems)
        return found

    @functools.wraps(opening)
    def open_sources(self: ConfigRepository, config_search_path: Any) -> None:
        for each in config_search_path.get_path():
            if str(each.path).startswith("pkg:") and not _PACKAGES.fullmatch(str(each.path)):
                raise UserError(
                    "a configuration from a Python package would run the package's code",
                    each.path,
                    "a folder of YAML files",
                    "--config-dir=FOLDER",
                )
        opening(self, config_search_path)

    ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign]
    ConfigRepository.initialize_sources = open_sources  # type: ignore[method-assign]


def refuse_pickles(words: Sequence[str]) -> None:
    """Refuse Hydra's `--experimental-rerun`, however it is shortened: it loads a pickle."""
    from hydra._internal.utils import get_args_parser

    if not any(word.startswith("--e") for word in words):
        return
    if get_args_parser().parse_known_args(list(words))[0].experimental_rerun is not None:
        raise UserError(
            "`--experimental-rerun` would load a pickle, which can run any code",
            expected="the words of the command: `command` in the record",
        )


def _problems(cfg: DictConfig) -> Iterator[Problem]:
    typed = {str(word).partition("=")[0].lstrip("+~") for word in cfg.hydra.overrides.hydra}
    for name, key, value in _leaves(cfg, ""):
        last, text = str(key), str(value)
        hydra = name.startswith("hydra.")
        if last == "_target_" and not (hydra and TARGETS.fullmatch(text)):
            yield Problem(f"`{name}` would run code", text, ALLOWED)
        elif name.startswith("hydra.callbacks.") and name.count(".") == 2:
            yield Problem(f"`{name}` would run code", expected="no callbacks")
        elif hydra and "_logging." in name and not _harmless(last, text):
            yield Problem(f"`{name}` would run code", text, "logging's stream and file handlers")
        elif name.startswith("hydra.job.env_set.") and not _VARIABLES.fullmatch(last):
            yield Problem(
                f"`{name}` would be set by a configuration",
                expected="variables of CUDA, OMP, MKL, NCCL, MLFLOW",
                fix=f"{last}=... python ...",
            )
        elif hydra and _in_shell(name) and value is not None and not _typed(name, typed):
            yield Problem(
                f"`{name}` would run code from a file", text, "it typed on the command line"
            )


def _harmless(key: str, text: str) -> bool:
    """Whether a setting of Python's logging names no code."""
    if key in ("()", "factory"):
        return False
    if key == "class" and not _LOGGING.fullmatch(text):
        return False
    return not text.startswith(("ext://", "cfg://")) or text in (
        "ext://sys.stdout",
        "ext://sys.stderr",
    )


def _in_shell(name: str) -> bool:
    parts = name.split(".")
    return parts[1:2] in (["launcher"], ["sweeper"]) and bool(set(_SHELL) & set(parts[2:3]))


def _typed(name: str, typed: set[str]) -> bool:
    """Whether the setting, or one that holds it, was typed."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in typed for count in range(3, len(parts) + 1))


def _leaves(node: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, key, value) of every value, interpolations followed."""
    if depth > 30:
        raise ConfigError([Problem(f"`{name[:80]}...` leads in a circle")])
    if isinstance(node, ListConfig):
        keys: list[Any] = list(range(len(node))) if not node._is_missing() else []
    else:
        keys = list(node)
    for key in keys:
        place = f"{name}.{key}" if name else str(key)
        try:
            value = None if OmegaConf.is_missing(node, key) else node[key]
        except OmegaConfBaseException:  # not known yet, such as the job's number
            value = str(node._get_node(key))
        yield place, key, None if isinstance(value, Container) else value
        if isinstance(value, Container) and not value._is_none() and not value._is_missing():
            yield from _leaves(value, place, depth + 1)
