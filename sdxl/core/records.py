"""Records on disk: written whole, read back, found in folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.core import json_file
from sdxl.core.errors import UserError
from sdxl.core.record import Record
from sdxl.core.store import disk_error, write_json


def write(record: Record, folder: Path) -> Path:
    """`record.json` in `folder`, whole or not at all; returns its path."""
    path = folder / "record.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, record.to_json())
    except OSError as error:
        raise disk_error(error, folder, "hydra.run.dir=FOLDER") from error
    return path


def read(path: Path) -> Record:
    """A record from its file; fields of later schemas are kept as they are.

    Raises `UserError` if the file holds none, `OSError` if it is not there.
    """
    try:
        return Record.from_json(_renamed(json_file.read(path)))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no record: not JSON: {error}") from error
    except (ValueError, TypeError) as error:  # ValueError: no text at all
        raise UserError(f"{path} is no record: {error}") from error


def _renamed(stored: Any) -> Any:
    """Names from before 0.2, where the unquantized baseline was called a twin, as they are now."""
    if not isinstance(stored, dict):
        return stored
    new = {"twin": "baseline", "twin_images_per_second": "baseline_images_per_second"}
    whole = dict(stored)
    for name in ("performance", "quality", "config"):
        if isinstance(group := whole.get(name), dict):
            whole[name] = {new.get(key, key): value for key, value in group.items()}
    config = whole.get("config")
    if isinstance(config, dict) and isinstance(group := config.get("quality"), dict):
        config["quality"] = {new.get(key, key): value for key, value in group.items()}
    return whole


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
