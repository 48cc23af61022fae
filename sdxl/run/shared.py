"""What the processes of a sweep share: small files in its folder, wherever its cells run."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from sdxl.core import store

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
    """The sweep of the cell in `folder`; None for a single run."""
    try:
        stored = json.loads((folder.parent / FILE).read_text())
    except FileNotFoundError:
        return None
    return Shared(**stored)


def stop(folder: Path) -> None:
    """Tell the cells of the sweep that have not begun not to begin."""
    (folder / STOP).touch()


def stopped(folder: Path) -> bool:
    """Whether somebody told them."""
    return (folder / STOP).exists()
