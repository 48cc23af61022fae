"""The seed of a benchmark's training: a random one unless it is typed, and kept for going on."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from sdxl.config.plugins import TrainingStage
from sdxl.config.schema.train import TrainConfig
from sdxl.training import loop, machine

_BENCHMARKS = ("sd2_mlperf",)
_FILE = "seed"


def settle(config: TrainConfig, chosen: TrainingStage, typed: Sequence[str]) -> None:
    """Put the seed into `config`: MLPerf asks for another in every run.

    Other stages have the one of the configuration, so that what they made can be made again.
    """
    named = any(word.lstrip("+~").startswith("seed=") for word in typed)
    if config.train.name in _BENCHMARKS:
        folder = chosen.folder_of(config)
        config.seed = machine.by_first(lambda: _settled(config, folder, named))


def _settled(config: TrainConfig, folder: Path, named: bool) -> int:
    file, seed, restart = folder / _FILE, config.seed, config.train.restart
    if not named:
        known = file.is_file() and not restart
        seed = int(file.read_text()) if known else secrets.randbelow(2**31)
    # Beside a checkpoint its own seed stays: another one is refused, and typed no more.
    if restart or not (folder / loop.FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{seed}\n")
    return seed
