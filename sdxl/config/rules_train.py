"""What is wrong with the settings of a training, all of it at once."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from sdxl.config.choices import DType, Prediction
from sdxl.config.schema.train import KINDS, Training
from sdxl.core.errors import ConfigError, Problem

STAGES = ("vae", "clip", "judge", "unet")
TUNING = ("qat", "finetune", "lora", "distill", "sd2_mlperf")
"""Stages that go on from a model: they have the whole configuration and a folder of their own."""
_WHOLE = ("vae", "clip", "judge")
"""Stages whose losses are of a batch as a whole: in parts they would be others."""
_OF_PICTURES = ("backend", "scenario", "quality", "export", "mode", "limit")
"""Groups and settings of what run.py does."""
_READ = ("train", "tracking", "seed", "plan", "hydra")
"""What the stages of the bundled model read."""
_SAID = ("prompt", "prompts", "cost")
"""What no command reads that measures nothing: `shorthand.unread` says it."""


def check(settings: Training, typed: Sequence[str] = (), quantized: bool = False) -> None:
    """Raise `ConfigError` with every problem; `typed`: the words of the command line."""
    if problems := problems_of(settings, typed, quantized):
        raise ConfigError(problems)


def problems_of(
    settings: Training, typed: Sequence[str] = (), quantized: bool = False
) -> list[Problem]:
    """What is wrong with a stage's settings, and which of the words it would not read."""
    ignored = _ignored(settings, typed, quantized)
    return [*_problems(settings), *_recipe(settings, typed), *ignored]


def _problems(settings: Training) -> Iterator[Problem]:
    name = settings.name
    if name not in (*STAGES, *TUNING):
        yield Problem("there is no such stage", f"train.name={name}", " ".join((*STAGES, *TUNING)))
    elif type(settings) is not KINDS.get(name, Training):
        yield Problem(
            "`train.name` is not of the chosen file", f"train.name={name}",
            "a file's own name", f"train={name}",
        )  # fmt: skip
    if settings.size % 8:
        yield Problem("`train.size` must be a multiple of 8 pixels", str(settings.size), "64")
    if settings.arithmetic is DType.fp16:
        yield Problem(
            "fp16 needs loss scaling, whose state would not resume exactly",
            "train.arithmetic=fp16", "fp32 or bf16", "train.arithmetic=bf16",
        )  # fmt: skip


def _recipe(settings: Training, typed: Sequence[str]) -> Iterator[Problem]:
    words = dict(word.lstrip("+~").split("=", 1) for word in typed if "=" in word)
    if settings.base_lr is not None and "train.lr" in words:
        yield Problem(
            "`train.lr` would be ignored: the rate is train.base_lr x train.batch",
            f"train.lr={words['train.lr']}", "one of both", f"train.base_lr={settings.base_lr:g}",
        )  # fmt: skip
    if settings.accumulate > 1 and settings.name in _WHOLE:
        yield Problem(
            f"the loss of the stage `{settings.name}` is of its whole batch",
            f"train.accumulate={settings.accumulate}", "1", "train.accumulate=1",
        )  # fmt: skip
    if getattr(settings, "prediction", None) is Prediction.sample:
        yield Problem(
            "there is no loss for models that predict the picture",
            "train.prediction=sample", "epsilon or v_prediction", "train.prediction=v_prediction",
        )  # fmt: skip


def _ignored(settings: Training, typed: Sequence[str], quantized: bool) -> Iterator[Problem]:
    not_read = unread(settings, quantized)
    left = [word for word in typed if not {_key(word), _root(word)} & not_read.keys()]
    for word in typed:
        key, root = _key(word), _root(word)
        if root == "shortcut" and word != "shortcut=none":
            yield Problem(
                f"`{key}` would be ignored: a training computes all of the UNet",
                word, "shortcut=none", "shortcut=none",
            )  # fmt: skip
        elif settings.name in STAGES and root not in _READ + _SAID:
            yield Problem(
                f"`{key}` would be ignored: the stage `{settings.name}` is of the bundled model",
                word, "settings of " + " ".join(_READ), f"train=finetune {word}",
            )  # fmt: skip
        elif why := not_read.get(key) or not_read.get(root):
            yield Problem(
                f"`{key}` would be ignored by train={settings.name}: {why}",
                word,
                "the same command without it",
                shlex.join(["python", "train.py", *left]),
            )


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def _root(word: str) -> str:
    return _key(word).partition(".")[0]


def unread(settings: Training, quantized: bool = False) -> dict[str, str]:
    """Settings and groups that a stage which goes on from a model does not read, and why."""
    name = settings.name
    if name not in TUNING:
        return {}
    found = dict.fromkeys(_OF_PICTURES, "a training draws and measures no pictures")
    if name != "qat" and not quantized:
        found["precision"] = "it goes on from fp32 weights, and computes in train.arithmetic"
        found["scheduler"] = "the noise is of the model's own schedule"
    if name == "sd2_mlperf" or getattr(settings, "shards", None):
        found["train.scenes"] = "no rendered scenes are trained on"
        found["train.size"] = "pictures have the size of the shards and of the model"
    if getattr(settings, "captions", None):
        found["train.scenes"] = "all captions of the file are taken"
    if name == "distill":
        found["train.size"] = "pictures have the model's size"
    return found
