"""Keys at the top for a quick look: `prompt`, `prompts`, `size` stand for settings of a group."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from sdxl.config import plugins, schema, sizes
from sdxl.config.schema import Config
from sdxl.core.errors import ConfigError, Problem

_TEXTS = ("prompt=", "train.shards=")
_PLAIN = re.compile(r"[\w ./-]*", re.ASCII)
"""What Hydra reads as it stands."""
_UNREAD = re.compile(r"(?=.*[^\x00-\x7d\x7f])[^\"'\\()\[\]{}]*")
"""Text with letters that its grammar lacks (not ASCII, or `~`), and without any of its brackets."""


def settle(config: Config, typed: Sequence[str] = ()) -> list[Problem]:
    """Put what they stand for into its group; `typed`: the words of the command."""
    words = {word.lstrip("+~").partition("=")[0] for word in typed}
    return [*_prompts(config, words), *_size(config, words)]


def quoted(words: Sequence[str]) -> list[str]:
    """The words of a command, quoted as Hydra wants it: a `prompt` with commas, a path with `é`.

    In a multirun commas part values.
    """
    several = bool({"-m", "--multirun"} & set(words))
    return [word if word.startswith("-") else _quoted(word, several) for word in words]


def _quoted(word: str, several: bool) -> str:
    key, _, text = word.partition("=")
    if word.startswith(_TEXTS) and not several:
        return f"{key}={_text(text)}"
    if _UNREAD.fullmatch(text) and (several or "," not in text):
        return f"{key}={','.join(map(_text, text.split(',')))}"
    return word


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) or (text[:1] in "\"'" and text[-1:] == text[:1]):
        return text
    escaped = re.sub(r"(\\+)(?='|\Z)", r"\1\1", text).replace("'", r"\'")
    return f"'{escaped}'"


def refuse_unread(config: Config, command: str) -> None:
    """Raise `ConfigError` for prompts and prices where no picture is drawn or measured."""
    if problems := unread(config, command):
        raise ConfigError(problems)


def unread(config: Config, command: str) -> list[Problem]:
    """Prompts and prices that a command ignores, which draws or measures no picture."""
    given = [name for name in ("prompt", "prompts") if getattr(config, name) is not None]
    problems = [
        Problem(
            f"`{name}` would be ignored: {command} draws no pictures",
            fix=f"python run.py {name}=...",
        )
        for name in given
    ]
    if (price := config.cost.per_hour) is not None:
        problems.append(
            Problem(
                f"`cost.per_hour` would be ignored: {command} measures no speed",
                f"cost.per_hour={price:g}",
                "the price of an hour where images are measured",
                f"python run.py cost.per_hour={price:g}",
            )
        )
    return problems


def _prompts(config: Config, words: set[str]) -> Iterator[Problem]:
    """A dataset of their own."""
    given = [name for name in ("prompt", "prompts") if getattr(config, name) is not None]
    if not given:
        return
    if len(given) == 2:
        yield Problem("`prompt` and `prompts` are two datasets", expected="one of them")
        return
    (name,) = given
    if "dataset" in words or config.dataset.name != "builtin":
        yield Problem(
            f"`dataset` would be ignored: `{name}` is a dataset of its own",
            f"dataset={config.dataset.name}",
            "one of both",
            f"{name}=... without dataset=",
        )
        return
    if not getattr(config, name).strip():
        yield Problem(f"`{name}` is empty", expected="words" if name == "prompt" else "a file")
    shuffle = config.dataset.shuffle
    if config.prompt is not None:
        config.dataset = schema.TextDataset("prompt", shuffle, config.prompt)
        if shuffle:
            yield Problem(
                "`dataset.shuffle` would be ignored: there is one prompt",
                fix="dataset.shuffle=false",
            )
    elif config.prompts is not None:
        config.dataset = schema.LinesDataset("prompts", shuffle, config.prompts)


def _size(config: Config, words: set[str]) -> Iterator[Problem]:
    """Width and height of a picture; the sizes that an engine spans, around the model's own."""
    area = max(0, config.model.width * config.model.height)  # ranges are looked at later
    side = round(math.isqrt(area) / sizes.STEP) * sizes.STEP
    if config.size is not None:
        found = sizes.read(config.size)
        if not found:
            yield Problem(
                "`size` cannot be read", config.size, "WIDTHxHEIGHT in pixels", "size=1152x896"
            )
            return
        for name in ("model.width", "model.height"):
            if name in words:
                yield Problem(
                    f"`{name}` would be ignored beside `size`",
                    f"size={config.size}",
                    "one of both",
                    f"size={config.size} without {name}",
                )
        config.model.width, config.model.height = found
    export, loads = config.export, plugins.backend_of(config).loads
    if export.dynamic_size and export.sizes is None and loads == "engines":
        export.sizes = sizes.around(side)
    yield from sizes.problems_of(config, loads)
