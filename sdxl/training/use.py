"""The `run.py` line that draws with what a training has left, beside the model it began with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sdxl.config import plugins, rules_model, usual, words
from sdxl.config.schema import Config, Rules
from sdxl.config.schema.train import TrainConfig
from sdxl.core.errors import UserError


def line(
    config: TrainConfig, key: str, made: Sequence[Any], *more: str, without: Sequence[str] = ()
) -> str:
    """Draws with `key=` each of `made`, by -m where there are several.

    more: words after it; without: settings of the model that it stands in for.
    """
    several = ["-m"] if len(made) > 1 else []
    own = [*_group("model", config.model, without), words.swept(key, made), *more]
    rest = [word for word in _rest(config) if word not in own]
    return " ".join(["python run.py", *several, *own, *rest])


def elsewhere(
    config: TrainConfig, training: Path, folders: Sequence[Path], typed: Sequence[str]
) -> UserError:
    """What is wrong with `evaluate=` of what is no training of MLPerf's benchmark.

    typed: the words that are kept of the training; of a `qat` without `quant=` there is no line,
    as older ones kept no such words.
    """
    name = config.train.name
    drawing = plugins.training_stage(name).drawing
    known = name != "qat" or any(word.startswith("quant=") for word in typed)
    expected = "run.py, which draws with each of them"
    if not known:
        expected += ": quant= as the training had it, quant.tuned=FOLDER"
    return UserError(
        f"`evaluate` draws for the stages of MLPerf's training benchmark, not for train={name}",
        str(training),
        expected if drawing else "a training of sd2_mlperf",
        f"{drawing(config, folders)} quality=fast" if drawing and known else None,
    )


def recipe(config: TrainConfig) -> list[str]:
    """The words of how the UNet is quantized, and of what its calibration depends on."""
    quant = _group("quant", config.quant, ("level", "tuned"))
    level = words.typed("quant_level", config.quant.level)
    dtypes = [f"precision.{name}" for name in ("text_encoder", "unet", "vae")]
    given = [(name, getattr(config.precision, name.partition(".")[2])) for name in dtypes]
    told = [words.typed(name, dtype) for name, dtype in given if dtype.value != "fp32"]
    return [*quant, level, *told, *_group("scheduler", config.scheduler)]


def _group(group: str, node: Any, without: Sequence[str] = ()) -> Iterator[str]:
    """The option of a group, and what differs from it."""
    if (group, node.name) != ("scheduler", "auto"):
        yield words.typed(group, node.name)
    for name in usual.changed(group, node):
        if name not in without:
            yield words.typed(f"{group}.{name}", getattr(node, name))


def _rest(config: TrainConfig) -> Iterator[str]:
    """The seed, of which random weights and calibrations are made; rules that were asked for."""
    if config.seed != Config.seed:
        yield words.typed("seed", config.seed)
    if config.rules not in (Rules.auto, rules_model.rules_of(config.model)):
        yield words.typed("rules", config.rules)
