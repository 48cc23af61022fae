"""Single words of a local folder's JSON files, before anything is loaded; imports no framework."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdxl.config import schema
from sdxl.core import json_file, store

SCHEDULER = "scheduler/scheduler_config.json"
UNET = "unet/config.json"


def word(model: schema.Model, file: str, name: str) -> Any:
    """What `file` of the model's folder says of `name`; None where nobody knows without loading."""
    for path in _places(model, file):
        try:
            return json_file.read_object(path).get(name)
        except (OSError, ValueError):
            continue  # not there, or whoever opens the model says what is wrong
    return None


def _places(model: schema.Model, file: str) -> list[Path]:
    if file == UNET and model.unet:
        return [store.resolve(model.unet) / Path(file).name]
    if not isinstance(model, schema.SdxlModel):
        return []
    folder = store.resolve(model.path)
    apart = [folder / "checkpoint_scheduler" / part for part in (file, Path(file).name)]
    return [folder / file, *(apart if file == SCHEDULER else []), folder / "checkpoint_pipe" / file]
