"""Are these the benchmark's weights and captions? By the published checksums of their files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sdxl.config import schema
from sdxl.core import digests
from sdxl.core.errors import SdxlError
from sdxl.core.store import resolve
from sdxl.model.components import COMPONENTS
from sdxl.model.download.catalogue import CATALOGUE, load
from sdxl.model.locate import locate, single_file
from sdxl.model.weight_files import choose

Entry = dict[str, Any]
"""One published file: `sha256` or `md5`, `bytes` where known, `what` it is."""

WHOLE = "whole"
"""The table's name for files that hold all four networks."""


def doubt(model: schema.SdxlModel, catalogue: Path | None = None) -> str | None:
    """Why weights are not known to be SDXL base 1.0's; None if each file is a published one.

    Reads files of gigabytes whole, the first time.
    """
    table = published(catalogue)
    try:
        for name, file in _files(model):
            if not _known(file, table.get(name, [])):
                return f"{file.name} of {name} is no published file of SDXL base 1.0"
    except (OSError, SdxlError) as error:
        return str(error).splitlines()[0]
    return None


def captions_doubt(path: str, target: str, catalogue: Path | None = None) -> str | None:
    """Why a caption file is not known to be the benchmark's; `target`: its word in the table."""
    wanted = load(catalogue or CATALOGUE)[target].files[0]
    try:
        said = wanted.problem(resolve(path))
    except OSError as error:
        said = error.strerror
    return f"captions of {path} are not the published ones: {said}" if said else None


def published(catalogue: Path | None = None) -> dict[str, list[Entry]]:
    """Files of the benchmark's weights by component: what is downloaded, and what else is known."""
    catalogue = catalogue or CATALOGUE
    found: dict[str, list[Entry]] = {}
    for file in load(catalogue)["sdxl"].files:
        if file.variant:
            entry = {"sha256": file.sha256, "bytes": file.bytes, "what": file.variant}
            found.setdefault(file.inner.partition("/")[0], []).append(entry)
    others: Any = OmegaConf.to_container(OmegaConf.load(catalogue), resolve=False)
    for name, entries in (others.get("benchmark") or {}).items():
        found.setdefault(name, []).extend(entries)
    return found


def _files(model: schema.SdxlModel) -> Iterator[tuple[str, Path]]:
    """The files that the model is read from, by component."""
    if file := single_file(model):
        yield WHOLE, file
        return
    folder = locate(model, download=False).folder
    for name in COMPONENTS:
        names = [each.name for each in (folder / name).iterdir()]
        chosen = choose(names, model.variant).names
        if not chosen:
            raise FileNotFoundError(f"no weights of {name}")
        for each in chosen:
            yield name, folder / name / each


def _known(file: Path, entries: list[Entry]) -> bool:
    """Whether a published file is this one; a size that none has spares the reading."""
    size = file.stat().st_size
    possible = [entry for entry in entries if entry.get("bytes") in (None, size)]
    if not possible:
        return False
    found = digests.of(file)
    return any(entry.get(kind) == value for entry in possible for kind, value in found.items())
