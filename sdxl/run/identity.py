"""Records: what a measurement is called, and its file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from sdxl.config import folder_words, loras
from sdxl.config.content_key import key, keyed
from sdxl.config.derive import calibration_file, effective
from sdxl.config.schema import QUANT_KEYS, Config, Model, ScenesModel, Spaced, StudentModel
from sdxl.core import paths
from sdxl.core.record import Record
from sdxl.core.store import fingerprint, resolve
from sdxl.model import checkout
from sdxl.quality import extra, needs, settings
from sdxl.run.command_line import command_line, outside, public

MEASURE_VERSION = 1
"""Bumped by hand when the sampler or the harness changes what a figure means."""

_NO_PART = {
    *("tracking", "preset", "plan", "build", "rerun", "fail_fast", "timeout_s", "quant"),
    *("prompt", "prompts", "size"),  # what they stand for is
    "cost",  # of the same seconds
    *QUANT_KEYS,
}
"""Settings that change no figure, or that do so only through the effective quantization."""


EULER = "EulerDiscreteScheduler"

_PATHS = (
    *("path", "config", "latents", "unet", "vae", "unet_config"),
    *("statistics", "tuned", "trace"),
)
"""Settings that name a file or a folder."""
_SCORING = ("inception", "statistics", "clip", "vocabulary", "reference")
"""Those of a quality option: they change scores, not pictures."""


def new(config: Config) -> Record:
    """A record that has not been measured yet."""
    record = Record(identity(config), public(config), command_line())
    record.environment.outside = outside(config)
    return record


def identity(config: Config) -> str:
    """Key of a measurement: everything that can change its figures, and nothing else.

    Two quantization settings with the same effect (alpha at level 1) have one key.
    """
    measured = {name: value for name, value in keyed(config).items() if name not in _NO_PART}
    del measured["export"]["parity"]  # looks, changes nothing
    if not _scheduler(config):
        del measured["scheduler"]
    if not _shortcut(config):
        del measured["shortcut"]
    quality = measured["quality"]
    quality["twin"] = quality.pop("baseline")  # its name before 0.2: keys stay what they were
    if config.quality.name == "fast":  # whose reference was null before there was `auto`
        quality["reference"] = {settings.AUTO: None, None: "none"}.get(
            quality["reference"], quality["reference"]
        )
    files = {**_files(config), **_named({"quality": config.quality}, _SCORING)}
    for name, metric in extra.asked(config.quality).items():
        if metric.weights:
            files[f"extra.{name}"] = fingerprint(extra.weights_of(config.quality, name))
    if config.quality.name == "fast" and config.dataset.name == needs.SCENES:
        files["judge"] = _bundled(paths.JUDGE)
    return key(measured, effective(config), files, MEASURE_VERSION)


def artifact_key(config: Config) -> str:
    """Key of what is executed: model, precision, effective quantization, backend, their files.

    How many images go into a batch is the scenario's affair.
    """
    backend = {n: v for n, v in keyed(config.backend).items() if n != "batch_size"}
    parts = (config.model, config.precision, effective(config), backend, config.seed)
    chosen = *_scheduler(config), *_shortcut(config)
    return key(*parts, *chosen, _files(config), MEASURE_VERSION)


def _scheduler(config: Config) -> list[Any]:
    """The scheduler where it is not the model's own as it stands: older keys have none."""
    chosen = keyed(config.scheduler)
    return [chosen] if chosen != keyed(Spaced("auto")) else []


def _shortcut(config: Config) -> list[Any]:
    """The shortcut where there is one: older keys have none."""
    return [keyed(config.shortcut)] if config.shortcut.name != "none" else []


def pair_key(config: Config) -> str:
    """Key that an accuracy run, a performance run and the audits of the same work share."""
    parts = (config.dataset, config.limit, config.rules, config.round, config.scenario.name)
    return key(artifact_key(config), config.backend.batch_size, *parts)


def _files(config: Config) -> dict[str, str]:
    """What the files behind the settings hold: a path alone would hide a change."""
    groups = {
        "model": config.model,
        "dataset": config.dataset,
        "quant": config.quant,
        "scenario": config.scenario,
    }
    found = _named(groups, _PATHS)
    fused = loras.of(config.model)
    for number, each in enumerate(fused):
        name = f"model.lora.{number}" if len(fused) > 1 else "model.lora"
        found[name] = fingerprint(each.path)
    found |= {f"model.{name}": said for name, said in checkout.identity(config.model).items()}
    found |= _drawn_anew(config.model)
    if isinstance(config.model, ScenesModel):
        parts = sorted(part for part in paths.JUDGE.parent.glob("*") if part != paths.JUDGE)
        found |= {f"model.{part.name}": _bundled(part) for part in parts}
    if isinstance(config.model, StudentModel):
        found["model.student"] = _bundled(paths.STUDENT)
    if "calibration" in effective(config) and (path := calibration_file(config.quant)):
        found["quant.calib_dataset"] = fingerprint(resolve(path))
    return found


def _drawn_anew(model: Model) -> dict[str, str]:
    """What of a folder earlier versions did not look at: another scheduler than Euler, and a UNet
    that takes the guidance scale. Their figures are not of the same pictures.
    """
    said = {
        "model.scheduler": folder_words.word(model, folder_words.SCHEDULER, "_class_name"),
        "model.guidance_width": folder_words.word(model, folder_words.UNET, "time_cond_proj_dim"),
    }
    return {name: str(each) for name, each in said.items() if each not in (None, EULER)}


@cache
def _bundled(part: Path) -> str:
    """What a part of the bundled model holds: hashed once in a process, 20 MB in all."""
    return fingerprint(part)


def _named(groups: dict[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    paths = {
        f"{group}.{name}": value
        for group, node in groups.items()
        for name in names
        if (value := getattr(node, name, None))
    }
    files = {name: value for name, value in paths.items() if value != settings.AUTO}
    return {name: fingerprint(resolve(value)) for name, value in files.items()}
