"""Records: what a measurement is called, and its file."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sdxl import quant
from sdxl.config.load import QUANT_KEYS, key, plain
from sdxl.config.schema import Config, ScenesModel
from sdxl.core import paths
from sdxl.core.errors import UserError
from sdxl.core.store import disk_error, fingerprint, resolve, write_json
from sdxl.core.types import Record
from sdxl.quality import fast

MEASURE_VERSION = 1
"""Bumped by hand when the sampler or the harness changes what a figure means."""

_NO_PART = {
    *("tracking", "plan", "build", "rerun", "fail_fast", "timeout_s", "quant"),
    *QUANT_KEYS,
}
"""Settings that change no figure, or that do so only through the effective quantization."""


_PATHS = (
    *("path", "latents", "unet", "unet_config", "lora", "diffusers_src", "statistics", "tuned"),
)
"""Settings that name a file or a folder."""
_SCORING = ("inception", "statistics", "clip", "vocabulary", "reference")
"""Those of a quality option: they change scores, not pictures."""
_CAPTIONS = {
    "builtin": None,
    "scenes": None,
    "coco_calibration": "store:coco/calibration_captions.tsv",
}
"""Calibration datasets with a name of their own: their file; None where they come with the code."""


def new(config: Config) -> Record:
    """A record that has not been measured yet."""
    return Record(identity(config), public(config), _scrub(command_line(), config))


def identity(config: Config) -> str:
    """Key of a measurement: everything that can change its figures, and nothing else.

    Two quantization settings with the same effect (alpha at level 1) have one key.
    """
    measured = {name: value for name, value in plain(config).items() if name not in _NO_PART}
    del measured["export"]["parity"]  # looks, changes nothing
    files = {**_files(config), **_named({"quality": config.quality}, _SCORING)}
    if config.quality.name == "fast" and config.dataset.name == fast.SCENES:
        files["judge"] = _bundled(paths.JUDGE)
    return key(measured, quant.effective(config), files, MEASURE_VERSION)


def artifact_key(config: Config) -> str:
    """Key of what is executed: model, precision, effective quantization, backend, their files.

    How many images go into a batch is the scenario's affair.
    """
    backend = {n: v for n, v in plain(config.backend).items() if n != "batch_size"}
    parts = (config.model, config.precision, quant.effective(config), backend, config.seed)
    return key(*parts, _files(config), MEASURE_VERSION)


def pair_key(config: Config) -> str:
    """Key that an accuracy run, a performance run and the audits of the same work share."""
    parts = (config.dataset, config.limit, config.rules, config.round, config.scenario.name)
    return key(artifact_key(config), config.backend.batch_size, *parts)


def _files(config: Config) -> dict[str, str]:
    """What the files behind the settings hold: a path alone would hide a change."""
    groups = {"model": config.model, "dataset": config.dataset, "quant": config.quant}
    found = _named(groups, _PATHS)
    if isinstance(config.model, ScenesModel):
        parts = sorted(part for part in paths.JUDGE.parent.glob("*") if part != paths.JUDGE)
        found |= {f"model.{part.name}": _bundled(part) for part in parts}
    if "calibration" in quant.effective(config):
        name = config.quant.calib_dataset
        if path := _CAPTIONS.get(name, name):
            found["quant.calib_dataset"] = fingerprint(resolve(path))
    return found


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
    return {name: fingerprint(resolve(value)) for name, value in paths.items()}


def public(config: Config) -> dict[str, Any]:
    """The configuration for records and MLflow, credentials removed from URIs."""
    found: dict[str, Any] = plain(config)
    if uri := found["tracking"]["uri"]:
        found["tracking"]["uri"] = without_credentials(uri)
    return found


def without_credentials(uri: str) -> str:
    """`http://user:secret@host/x` -> `http://host/x`."""
    return uri.replace(credentials(uri), "", 1)


def credentials(uri: str) -> str:
    """`http://user:secret@host/x` -> `user:secret@`; empty where there are none."""
    try:
        user, at, _ = urlsplit(uri).netloc.rpartition("@")
    except ValueError:
        return ""
    return user + at


def forget_credentials(config: Config, folder: Path) -> None:
    """Hydra wrote the command's words into the output folder before we ran: take secrets out."""
    if credentials(config.tracking.uri or ""):
        for path in [*folder.glob(".hydra/*.yaml"), folder.parent / "multirun.yaml"]:
            if path.is_file():
                path.write_text(_scrub(path.read_text(), config))


def _scrub(text: str, config: Config) -> str:
    """`text` without the tracking server's credentials, plain or as Hydra escapes them."""
    secret = credentials(config.tracking.uri or "")
    return text.replace(secret, "").replace(re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", secret), "")


def in_multirun() -> bool:
    """Whether Hydra runs this job as a cell of a multirun."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def command_line() -> str:
    """The line that reproduces this cell."""
    from hydra.core.hydra_config import HydraConfig

    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else sys.argv[1:]
    split = (word.partition("=") for word in words)
    safe = [f"{name}{sign}{without_credentials(value)}" for name, sign, value in split]
    return shlex.join(["python", Path(sys.argv[0]).name, *safe])


def write(record: Record, folder: Path) -> Path:
    """`record.json` in `folder`, whole or not at all; returns its path."""
    path = folder / "record.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(record))
    except OSError as error:
        raise disk_error(error, folder, "hydra.run.dir=FOLDER") from error
    return path


def read(path: Path) -> Record:
    """A record from its file; fields of later schemas are passed over.

    Raises `UserError` if the file holds none, `OSError` if it is not there.
    """
    fields = {field.name for field in dataclasses.fields(Record)}
    try:
        stored = json.loads(path.read_text())
        if not isinstance(stored, dict):
            raise TypeError(f"a JSON {type(stored).__name__}, no object")
        return Record(**{name: value for name, value in stored.items() if name in fields})
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no record: not JSON: {error}") from error
    except (ValueError, TypeError) as error:  # ValueError: no text at all
        raise UserError(f"{path} is no record: {error}") from error


def find(places: Sequence[Path]) -> list[Path]:
    """The record files at `places`: files as they are, folders searched through.

    Raises `UserError` naming a place without any.
    """
    found: list[Path] = []
    for place in places:
        here = sorted(place.rglob("record.json")) if place.is_dir() else [place]
        if not here or not here[0].is_file():
            raise UserError("there is no such record", place, "a record.json or a folder with some")
        found += here
    return list(dict.fromkeys(path.resolve() for path in found))
