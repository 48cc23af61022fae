"""torch.compile with its cache in the store, so that a second run compiles nothing anew."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sdxl.core import store

FOLDERS = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""Environment variable -> folder in `<store>/compiled`; one that is set already is kept."""

SIZES = 64
"""Compiled variants per function: every batch size has one of its own; PyTorch stops at 8."""

TEMPORARY = str(Path(tempfile.gettempdir()) / "torchinductor_*")
"""Inductor's own choice, which nobody has asked for."""


def use_store() -> dict[str, Path]:
    """Let Inductor and Triton keep what they compile in the store; the folders by variable."""
    for name, folder in FOLDERS.items():
        # Merely imported, Inductor sets its variable to a folder for temporary files.
        if Path(os.environ.get(name, TEMPORARY)).match(TEMPORARY):
            os.environ[name] = str(store.root() / "compiled" / folder)
    return {name: Path(os.environ[name]) for name in FOLDERS}


class Cache:
    """Compiles modules, and knows how much of it was there already."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.folders = use_store()
        self.before = self._entries()
        self.networks: list[str] = []
        torch._dynamo.config.recompile_limit = max(SIZES, torch._dynamo.config.recompile_limit)

    def compile(self, name: str, eager_first: bool, run: Any) -> Callable[..., Any]:
        """A network's `run` compiled; with `eager_first` each new shape runs once as it is before.

        Kernels that are chosen by timing are settled then: a trace could not time them. Batch
        sizes are prepared in the warm-up, so each gets code of its own: by default the second one
        would make code for all sizes, which is slower.
        """
        self.networks.append(name)
        compiled = torch.compile(run, mode=self.mode, dynamic=False)
        return _Settled(run, compiled) if eager_first else compiled

    def describe(self) -> dict[str, Any]:
        """For the record: networks, the folders, and their entries before this run and now."""
        return {
            "networks": self.networks,
            "folders": {name: str(path) for name, path in self.folders.items()},
            "entries_before": self.before,
            "entries": self._entries(),
        }

    def _entries(self) -> int:
        return sum(1 for folder in self.folders.values() for _ in folder.glob("*/*"))


class _Settled:
    def __init__(self, run: Callable[..., Any], compiled: Callable[..., Any]) -> None:
        self.run, self.compiled = run, compiled
        self._seen: set[tuple[int, ...]] = set()

    def __call__(self, sample: torch.Tensor, *args: Any, **words: Any) -> Any:
        """The compiled outcome."""
        if tuple(sample.shape) not in self._seen:
            self._seen.add(tuple(sample.shape))
            self.run(sample, *args, **words)
        return self.compiled(sample, *args, **words)
