"""One way to the model's parts, whatever they come from: seed, folder, file or hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdxl.config import schema
from sdxl.core import json_file
from sdxl.core.errors import ConfigError
from sdxl.model import architecture, capability
from sdxl.model.components import Source
from sdxl.model.locate import AbsentError, single_file
from sdxl.model.replaced import Replaced
from sdxl.model.seeded import RandomSource
from sdxl.model.single_file import SingleFile
from sdxl.model.weights import WeightSource, bundled


def open_source(model: schema.Model, seed: int) -> Source:
    """The source that `model` asks for, checked by its configurations; reads no weights yet.

    Raises `ConfigError` for a model of another kind, or whose parts do not go together.
    """
    return _checked(_own_source(model, seed), model)


def shapes_source(model: schema.Model, seed: int) -> Source:
    """A source for the meta device that downloads nothing, checked as that of `open_source`.

    Where SDXL's weights are not here, the published shapes of SDXL base 1.0 stand in.
    """
    try:
        own = _own_source(model, seed, download=False)
    except AbsentError:
        own = RandomSource(architecture.SDXL, seed)
    return _checked(own, model)


def _own_source(model: schema.Model, seed: int, download: bool = True) -> Any:
    """The model's own parts, before any is replaced."""
    if isinstance(model, schema.SdxlModel):
        file = single_file(model)
        return SingleFile(model, file) if file else WeightSource(model, download)
    if isinstance(model, schema.ScenesModel):
        return bundled(model)
    if isinstance(model, schema.RandomModel):
        return RandomSource(architecture.SDXL, seed, model.unet_config, through_fp32=False)
    assert isinstance(model, schema.TinyModel)
    return RandomSource(architecture.TINY, seed, model.unet_config)


def _checked(source: Any, model: schema.Model) -> Source:
    """The source with its replacements, if its parts make an SDXL model."""
    folder: Path | None = getattr(source, "folder", None)
    for name in ("unet", "vae"):
        if where := getattr(model, name):
            source = Replaced(source, name, where)
    if problems := capability.problems_of(source.configs, _index(folder), _tokens(folder)):
        raise ConfigError(problems)
    checked: Source = source
    return checked


def _index(folder: Path | None) -> dict[str, Any]:
    try:
        return json_file.read_object(folder / "model_index.json") if folder else {}
    except (OSError, ValueError):
        return {}


def _tokens(folder: Path | None) -> dict[str, int]:
    names = ("tokenizer", "tokenizer_2") if folder else ()
    return {name: capability.rows_of(folder / name) for name in names if folder}
