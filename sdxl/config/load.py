"""Composition to configuration: refuse what is unknown, check every rule."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdxl.config import plugins, ranges, rules_model, schema, shorthand, usual
from sdxl.config.content_key import plain
from sdxl.config.rules import problems_of
from sdxl.config.rules_train import problems_of as problems_of_training
from sdxl.config.schema import GROUPS, QUANT_KEYS, Config
from sdxl.config.schema import train as schema_train
from sdxl.config.words import typed
from sdxl.core.errors import ConfigError, Problem, did_you_mean

BUILTIN_PROMPTS = 64
"""Prompts that come with a model, unless `limit` asks for more."""


RENAMED = {"quality.twin": "quality.baseline"}
"""Keys of earlier versions, by their name now."""


_LISTS: dict[Any, type] = {list[str]: str, list[int]: int, list[float]: float}
"""Types of settings that are lists, and of their items."""
_OF_SWEEPS = ("report_prompts",)
"""Settings of a recipe that a sweep gives to all its cells, also those that quantize nothing."""


def load(cfg: DictConfig, typed: Sequence[str] = ()) -> Config:
    """Turn a composed configuration into a checked `Config`; `typed`: the words that made it.

    Raises `ConfigError` with all problems at once: unknown keys, missing values, broken rules.
    """
    try:
        problems = list(_unknown_keys(cfg))
        problems += [
            Problem(f"`{key}` is required", fix=f"{key}=VALUE")
            for key in sorted(OmegaConf.missing_keys(cfg))
        ]
        if problems:
            raise ConfigError(problems)
        config: Any = OmegaConf.to_object(cfg)
        if problems := [*_other_names(config), *_other_items(config)]:
            raise ConfigError(problems)
    except OmegaConfBaseException as error:  # an interpolation `${x}` that leads nowhere
        name = getattr(error, "full_key", None) or "the configuration"
        raise ConfigError([Problem(f"`{name}`: {str(error).splitlines()[0]}")]) from error
    problems = shorthand.settle(config, typed)
    problems += _settle_quant(config)
    problems += ranges.problems_of(config)
    _settle_captions(config)
    if config.rules is schema.Rules.auto:
        config.rules = rules_model.rules_of(config.model)
    problems += problems_of(config)
    if isinstance(config, schema_train.TrainConfig):
        problems += _of_training(config, typed)
    backend = plugins.backend_of(config)
    problems += backend.problems_of(config)
    if quality := plugins.quality_of(config):
        problems += quality.problems_of(config)
    if config.profile:
        problems += _unprofiled(config, backend.profiles)
    if backend.loads in ("nothing", "checkpoint"):
        problems += _ignored_export(config)
    if config.precision.auto:
        problems += _unsettled(config, backend)
    if problems:
        raise ConfigError(problems)
    if config.precision.auto:
        assert backend.settle
        backend.settle(config)
    return config


def _of_training(config: schema_train.TrainConfig, typed: Sequence[str]) -> Iterator[Problem]:
    yield from shorthand.unread(config, "train.py")
    if not config.evaluate:
        quantized = config.quant.format is not schema.Format.none
        yield from problems_of_training(config.train, typed, quantized)


def _unsettled(config: Config, backend: plugins.Backend) -> Iterator[Problem]:
    """`precision=auto` where nothing is timed, or beside dtypes that it would replace."""
    if isinstance(config, schema_train.TrainConfig) or not backend.settle:
        trains = isinstance(config, schema_train.TrainConfig)
        yield Problem(
            "`precision=auto` would be ignored: nothing times dtypes here",
            "train.py" if trains else f"backend={config.backend.name}",
            "backend=torch on a CPU, or a dtype",
            "precision=fp32",
        )
    asked = {name: value for name, value in vars(config.precision).items() if name != "auto"}
    for name, value in asked.items():
        if value is not schema.DType.fp32:
            yield Problem(
                f"`precision.{name}` would be ignored: `precision=auto` chooses for all three",
                value.value,
                "one of both",
                f"precision=fp32 precision.{name}={value.value}",
            )


def _settle_captions(config: Config) -> None:
    """The built-in prompts of a model of scenes are captions of scenes."""
    if not isinstance(config.model, schema.ScenesModel):
        return
    if config.dataset.name == "builtin":
        prompts = max(BUILTIN_PROMPTS, config.limit or 0)
        config.dataset = schema.ScenesDataset("scenes", config.dataset.shuffle, prompts)
    if config.quant.calib_dataset == "builtin":
        config.quant.calib_dataset = "scenes"


def _settle_quant(config: Config) -> list[Problem]:
    """Merge the top-level keys into the recipe; `quant=auto` is INT8 only if one was given."""
    quant = config.quant
    given = {key: getattr(config, key) for key in QUANT_KEYS if getattr(config, key) is not None}
    automatic = quant.name == "auto" and not given
    if automatic or (quant.format is schema.Format.none and not given):
        problems = list(_unused_recipe(quant))
        quant.format = schema.Format.none
        return problems
    if quant.format is schema.Format.none:
        words = " ".join(f"{key}={value:g}" for key, value in given.items())
        return [
            Problem(
                f"{words} would be ignored",
                got=f"quant={quant.name}",
                expected="a recipe that quantizes",
                fix=f"quant=int8 {words}",
            )
        ]
    for key, value in given.items():
        setattr(quant, QUANT_KEYS[key], value)
    return []


def _other_names(config: Config) -> Iterator[Problem]:
    """Names that say another option than the one that was chosen."""
    for group in ("scenario", "shortcut", "backend", "quality"):
        node = getattr(config, group)
        if (known := _option(group, node.name)) is not type(node):
            close = node.name if known else "OPTION"
            yield Problem(
                f"`{group}.name` is no setting", node.name, "an option", f"{group}={close}"
            )


def _option(group: str, name: str) -> type | None:
    """The schema of an option; None: there is no such option."""
    if group == "backend" and name in plugins.backend_names():
        return plugins.backend(name).config
    if group == "quality" and name in plugins.quality_names():
        return plugins.quality_option(name).config
    if group == "quality":
        return schema.Quality if name == "none" else None
    return GROUPS.get(group, {}).get(name)


def _other_items(node: Any, prefix: str = "") -> Iterator[Problem]:
    """Lists of something else than they are made for: OmegaConf lets lists of lists through.

    So it does what stands for a list, `${oc.env:HOME}`, and turns out to be none.
    """
    node_type: Any = type(node)
    hints = ranges.hints_of(node_type)
    for field in dataclasses.fields(node):
        key, value, hint = f"{prefix}{field.name}", getattr(node, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            yield from _other_items(value, f"{key}.")
        elif value is not None and (kinds := {*typing.get_args(hint), hint} & _LISTS.keys()):
            item, is_list = _LISTS[kinds.pop()], isinstance(value, list)
            wrong = [each for each in value if not isinstance(each, item)] if is_list else [value]
            if wrong:
                said = f"a list of {item.__name__}"
                yield Problem(f"`{key}` has the wrong type", str(wrong[0]), said, f"{key}=[...]")


def _unused_recipe(quant: schema.Quant) -> Iterator[Problem]:
    """Settings of a recipe where nothing is quantized."""
    for name in usual.changed("quant", quant):
        if name == "tuned" or (quant.name == "none" and name in _OF_SWEEPS):
            continue
        yield Problem(
            f"`quant.{name}` would be ignored: nothing is quantized",
            f"quant={quant.name}",
            "a recipe that quantizes",
            f"quant=int8 {typed(f'quant.{name}', getattr(quant, name))}",
        )


def _unprofiled(config: Config, able: bool) -> list[Problem]:
    """`profile=true` where nobody could watch."""
    name = config.backend.name
    reasons = {
        f"backend={name} has no modules to time": not able,
        f"backend.devices={config.backend.devices}: workers draw": config.backend.devices
        is not None,
        "find_peak=true runs many times": config.find_peak,
    }
    return [
        Problem("`profile` would be ignored", reason, "a run that can be watched", "profile=false")
        for reason, holds in reasons.items()
        if holds
    ]


def _ignored_export(config: Config) -> list[Problem]:
    """Settings of graphs, for a backend that loads none."""
    given, default = plain(config.export), plain(schema.Export())
    return [
        Problem(
            f"`export.{name}` would be ignored: the {config.backend.name} backend loads no graph",
            f"backend={config.backend.name}",
            "a backend that does",
            "backend=ort",
        )
        for name in given
        if given[name] != default[name]
    ]


def _unknown_keys(cfg: DictConfig, prefix: str = "") -> Iterator[Problem]:
    """Keys that no schema names; `+group.key=1` slips past Hydra's own check."""
    node_type = OmegaConf.get_type(cfg)
    if not dataclasses.is_dataclass(node_type):
        return
    known = {f.name for f in dataclasses.fields(node_type)}
    for key in cfg:
        name = str(key)
        if name not in known:
            yield unknown_key(f"{prefix}{name}", [f"{prefix}{k}" for k in known])
        elif not OmegaConf.is_missing(cfg, key) and isinstance(cfg[key], DictConfig):
            yield from _unknown_keys(cfg[key], f"{prefix}{name}.")


def _option_with(group: str, name: str) -> str | None:
    """An option of a group that has a setting of this name."""
    nodes: dict[str, type] = dict(GROUPS.get(group, {}))
    if group == "train":
        nodes = {**schema_train.KINDS}
    elif group == "backend":
        nodes = {each: found.config for each, found in plugins.backends().items()}
    having = (
        option
        for option, node in nodes.items()
        if option != "base" and name in {field.name for field in dataclasses.fields(node)}
    )
    return next(having, None)


def unknown_key(key: str, known: list[str]) -> Problem:
    """The problem of a key that does not exist, with the closest one that does."""
    if key in RENAMED:
        return Problem(f"`{key}` is called `{RENAMED[key]}` now", fix=f"{RENAMED[key]}=VALUE")
    group, _, name = key.rpartition(".")
    tops = {each.partition(".")[0] for each in known}
    inside = {each.rpartition(".")[2]: each for each in known if each.startswith(f"{group}.")}
    inside = inside if group and inside else {each: each for each in (*known, *tops)}
    found = did_you_mean(name if group else key, inside)
    close = inside[found] if found else None
    if not close and (option := _option_with(group, name)):
        return Problem(
            f"there is no key `{key}` here",
            expected=f"{group}={option}, which has it",
            fix=f"{group}={option} {key}=VALUE",
        )
    return Problem(
        f"there is no key `{key}`",
        expected=f"did you mean `{close}`?" if close else "one of: " + " ".join(sorted(known)),
        fix=f"{close}=VALUE" if close else None,
    )
