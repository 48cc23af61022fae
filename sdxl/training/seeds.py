"""The seed of a benchmark's training: a random one unless it is typed, and kept for going on."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

from sdxl.config.plugins import TrainingStage
from sdxl.config.schema.train import TrainConfig
from sdxl.training import machine

_BENCHMARKS = ("sd2_mlperf",)
_FILE = "seed"


def settle(config: TrainConfig, chosen: TrainingStage, typed: Sequence[str]) -> None:
    """Put the seed into `config`: MLPerf asks for another in every run.

    Other stages have the one of the configuration, so that what they made can be made again.
    """
    named = any(word.lstrip("+~").startswith("seed=") for word in typed)
    if config.train.name not in _BENCHMARKS or config.plan:
        return
    file = chosen.folder_of(config) / _FILE
    if not named:
        known = file.is_file() and not config.train.restart
        config.seed = int(file.read_text()) if known else secrets.randbelow(2**31)
    # Asked of all processes, whatever they have found: the first one's answer counts.
    config.seed = machine.agreed(config.seed)
    if os.environ.get("RANK", "0") == "0":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{config.seed}\n")
