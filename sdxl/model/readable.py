"""What libraries say of bad files, as messages that name the folder and the line to type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdxl.core import json_file
from sdxl.core.errors import SdxlError, UserError


@contextmanager
def readable(what: str, place: Path, expected: str, fix: str) -> Iterator[None]:
    """Whatever a library says of a bad folder or file, as a `UserError` that names it."""
    try:
        yield
    except SdxlError:
        raise
    except Exception as error:  # of every kind: files missing, no JSON, another shape, ...
        said = str(error).strip() or type(error).__name__
        what = f"{what} cannot be loaded: {said.splitlines()[0]}"
        if _of_this_machine(error):
            expected, fix = "enough memory, libraries that load", "python -m sdxl doctor"
            raise SdxlError(what, str(place), expected, fix) from error
        raise UserError(what, listing(place), expected, fix) from error


def _of_this_machine(error: BaseException | None) -> bool:
    """Whether memory or a library was missing: no other file would help."""
    while error:
        if isinstance(error, ImportError | MemoryError) or "allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def listing(place: Path) -> str:
    """A folder with the names in it; a file by its own."""
    if not place.is_dir():
        return str(place)
    found = " ".join(sorted(file.name for file in place.iterdir()))
    return f"{place} with {found or 'no files'}"


def read_config(name: str, folder: Path, fix: str, file: str = "config.json") -> dict[str, Any]:
    """A component's config.json, or another `file` of settings."""
    what = f"the shapes of `{name}`" if file == "config.json" else f"the {name}"
    with readable(what, folder, f"its {file}", fix):
        return json_file.read_object(folder / file)
