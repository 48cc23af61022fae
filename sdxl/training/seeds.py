"""The seed of a benchmark's training: a random one unless it is typed, and kept for going on."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

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
    if config.train.name not in _BENCHMARKS:
        return
    folder, first = chosen.folder_of(config), os.environ.get("RANK", "0") == "0"
    file = folder / _FILE
    if first and not named:  # the first process's answer counts, so no other one looks
        known = file.is_file() and not config.train.restart
        config.seed = int(file.read_text()) if known else secrets.randbelow(2**31)
    config.seed = machine.agreed(config.seed)
    # Beside a checkpoint its own seed stays: another one is refused, and typed no more.
    if first and (config.train.restart or not (folder / loop.FILE).is_file()):
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{config.seed}\n")
