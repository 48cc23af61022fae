"""`--help` once more, at once: the text of the last time, while nothing that it tells has changed.

To compose the defaults takes half a second. This is read before Hydra is, so it imports the
standard library's light modules only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from sdxl.core import json_file, paths, streams, terminal
from sdxl.core.secrets import hide

ASKS = (["--help"], ["-h"])
"""Words whose answer is kept; beside others, `--help` shows what those choose."""
_VARIABLES = ("SDXL_", "MLFLOW_", "HF_")
_LIBRARIES = ("hydra", "omegaconf")


def answer(name: str, words: list[str]) -> None:
    """End the process with the kept text, if there is one that holds."""
    if words in ASKS and (text := _kept(name)):
        with streams.guarded():
            terminal.tell(text)
        sys.exit(0)


def keep(name: str, words: list[str], text: str) -> None:
    """For the next time, in the store, if there is one and it can be written."""
    file = _file(name)
    if words not in ASKS or not file.parent.parent.is_dir():
        return
    with contextlib.suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({"of": _state(), "text": hide(text)}))
        part.replace(file)


def _kept(name: str) -> str | None:
    try:
        found = json_file.read_object(_file(name))
        return str(found["text"]) if found["of"] == _state() else None
    except (OSError, ValueError, LookupError):
        return None


def _file(name: str) -> Path:
    return paths.store_root() / "help" / f"{name}.json"


def _state() -> str:
    """Changes with our files, the libraries, and the variables that a default may come from."""
    variables = sorted(each for each in os.environ.items() if each[0].startswith(_VARIABLES))
    origins = [spec.origin or "" for spec in map(find_spec, _LIBRARIES) if spec]
    seen = [sys.version, str(paths.ROOT), repr(variables), *map(_look, origins)]
    for folder in (paths.PACKAGE, paths.CONF):
        seen += sorted(_files(str(folder)))
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()


def _files(folder: str) -> Iterator[str]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _files(entry.path)
        elif entry.name.endswith((".py", ".yaml")):
            yield _look(entry.path)


def _look(path: str) -> str:
    found = os.stat(path)  # noqa: PTH116  a DirEntry's own knows no more
    return f"{path} {found.st_mtime_ns} {found.st_size}"
