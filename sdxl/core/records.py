"""Records on disk: written whole, read back, found in folders."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sdxl.core.errors import UserError
from sdxl.core.store import disk_error, write_json
from sdxl.core.types import Record


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
        _rename(stored)
        return Record(**{name: value for name, value in stored.items() if name in fields})
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no record: not JSON: {error}") from error
    except (ValueError, TypeError) as error:  # ValueError: no text at all
        raise UserError(f"{path} is no record: {error}") from error


def _rename(stored: dict[str, Any]) -> None:
    """Names from before 0.2, where the unquantized baseline was called a twin, as they are now."""
    for group in (stored.get("quality"), (stored.get("config") or {}).get("quality")):
        if isinstance(group, dict) and "twin" in group:
            group["baseline"] = group.pop("twin")
    speed = stored.get("performance")
    if isinstance(speed, dict) and "twin_images_per_second" in speed:
        speed["baseline_images_per_second"] = speed.pop("twin_images_per_second")


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
