"""The words of `train.py evaluate=FOLDER`: the training's, and this command's on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdxl.config.compose import Composer
from sdxl.config.schema import QUANT_KEYS
from sdxl.config.schema.train import TrainConfig
from sdxl.core.errors import ConfigError, Problem

_READ = ("evaluate", "train", "model", "dataset", "quality", "plan", "hydra")
_OF_TRAINING = ("train", "model", "dataset", "precision", "scheduler", "seed", "rules")
_READ_OF_TRAIN = ("eval_prompts", "eval_steps", "eval_batch", "guidance")


def words(typed: Sequence[str]) -> list[str]:
    """Of a training's words, those that whoever draws with its weights needs to know."""
    known = (*_OF_TRAINING, "quant", *QUANT_KEYS)
    return [word for word in typed if word.partition("=")[0].partition(".")[0] in known]


def refuse_ignored(typed: Sequence[str], stage: str) -> None:
    """Raise `ConfigError` for words that no evaluation of a training of `stage` reads."""
    problems = []
    for word in typed:
        key = word.lstrip("+~").partition("=")[0].partition("@")[0]
        root, _, name = key.partition(".")
        if word.lstrip("+") in (f"train={stage}", "tracking=off"):
            continue
        if root not in _READ or (root == "train" and name not in _READ_OF_TRAIN):
            fix = "train." + ", train.".join(_READ_OF_TRAIN)
            problems.append(
                Problem(
                    f"`{key}` would be ignored: `evaluate` scores what a training of "
                    f"train={stage} has kept",
                    word,
                    f"{fix}, model, dataset, quality",
                )
            )
    if problems:
        raise ConfigError(problems)


def composed(config: TrainConfig, facts: Mapping[str, Any], typed: Sequence[str]) -> TrainConfig:
    """The configuration of the training with the words of this command on top."""
    if not typed:
        return config
    own = [word for word in typed if not word.startswith(("hydra", "train="))]
    here = {"train", *(word.lstrip("+~").partition("=")[0] for word in own)}
    kept = [word for word in facts["words"] if word.partition("=")[0] not in here]
    found = Composer("train").config([f"train={facts['stage']}", *kept, *own])
    assert isinstance(found, TrainConfig)
    return found
