"""A command's configuration is composed once: Hydra does it twice, first to read `hydra.mode`.

What the first composition gave is what the second would give but for that mode. It is taken if
Hydra's own check of the words agrees; whatever raises is composed again, and raises there.
"""

from __future__ import annotations

import functools

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig


def install() -> None:
    """Let every composition of this process pass here; the second time changes nothing."""
    loading = ConfigLoaderImpl.load_configuration
    if hasattr(loading, "composes_once"):
        return

    @functools.wraps(loading)
    def load(
        self: ConfigLoaderImpl,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        if not validate_sweep_overrides:  # for the mode; no group may be missing, as for a run
            found = loading(self, config_name, overrides, RunMode.RUN, from_shell, False)
            self.first = (config_name, list(overrides), found)  # type: ignore[attr-defined]
            return found
        first = vars(self).pop("first", None)
        word = f"hydra.mode={run_mode.name}"
        if not first or (config_name, overrides) != (first[0], [*first[1], word]):
            return loading(self, config_name, overrides, run_mode, from_shell)
        parsed = OverridesParser.create().parse_overrides(overrides)
        self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        found = first[2]
        found.hydra.mode = run_mode
        found.hydra.overrides.hydra.append(word)
        return found

    load.composes_once = True  # type: ignore[attr-defined]
    ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign]
