"""What the processes of a sweep share: small files in its folder, wherever its cells run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sdxl.core import json_file, store, terminal

FILE = "sweep.json"
STOP = "stopped"


@dataclass(frozen=True)
class Shared:
    """What a cell has to know of its sweep."""

    name: str
    started: str  # UTC; records from then on are this sweep's own
    mlflow_parent: str | None = None  # run id


def begin(folder: Path, shared: Shared) -> None:
    """Write the sweep's file, over that of an earlier sweep in the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP).unlink(missing_ok=True)
    store.write_json(folder / FILE, dataclasses.asdict(shared))


def of_cell(folder: Path) -> Shared | None:
    """The sweep of the cell in `folder`; None for a single run, and beside another's file."""
    path = folder.parent / FILE
    try:
        return _read(json_file.read_object(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        _warn(path, str(error))
        return None


def _read(stored: dict[str, Any]) -> Shared:
    parent = stored.get("mlflow_parent")
    texts = [stored.get("name"), stored.get("started"), "" if parent is None else parent]
    if not all(isinstance(each, str) for each in texts):
        raise ValueError("it lacks the name or the start of a sweep")
    return Shared(stored["name"], stored["started"], parent)


@cache
def _warn(path: Path, what: str) -> None:
    """Once for each file."""
    terminal.say(f"warning: {path} is no sweep's file and is ignored: {what}")


def stop(folder: Path) -> None:
    """Tell the cells of the sweep that have not begun not to begin."""
    (folder / STOP).touch()


def stopped(folder: Path) -> bool:
    """Whether somebody told them."""
    return (folder / STOP).exists()
