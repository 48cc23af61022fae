"""Artifacts by content key: built once, published whole or not at all, shared by every process.

Layout: `<root>/<kind>/<key>/manifest.json` beside the files it lists. The root is `SDXL_STORE`, or
`~/.cache/sdxl`; deleting `multirun/` must not cost an hour of engine building.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.core import json_file, locks
from sdxl.core.errors import SdxlError, UserError
from sdxl.core.paths import store_root
from sdxl.core.secrets import hidden
from sdxl.core.types import Build, Manifest

MOST_FILES = 500_000
"""Below a folder whose content is a part of a key."""
FIX = "SDXL_STORE=FOLDER python ..."
_WHOLE, _PIECES, _PIECE = 64 << 20, 256, 64 << 10


@dataclass(frozen=True)
class Artifact:
    """A published artifact: its folder, its manifest, and who made it."""

    path: Path
    manifest: Manifest
    built: bool = dataclasses.field(default=False, compare=False)  # by this call of `get`

    def json(self, name: str) -> Any:
        """What its JSON file `name` holds; raises `SdxlError` if that is damaged."""
        try:
            return json_file.read(self.path / name)
        except (OSError, ValueError) as error:
            raise _broken(self.path, f"{name} cannot be read: {error}") from error


def root() -> Path:
    """The store's folder."""
    return store_root()


def resolve(path: str) -> Path:
    """A path from the configuration; `store:x` is `x` inside the store."""
    if path.startswith("store:"):
        return root() / path.removeprefix("store:")
    return Path(path).expanduser()


def on_hub(path: str) -> bool:
    """Whether a path is ORGANISATION/NAME, and nothing on this disk."""
    local = path.startswith(("/", ".", "~", "store:")) or resolve(path).exists()
    return path.count("/") == 1 and not local


def find(kind: str, key: str) -> Artifact | None:
    """The artifact, if it is there and complete (every listed file has its size)."""
    folder = root() / kind / key
    try:
        manifest = manifest_of(folder)
    except FileNotFoundError as error:
        if folder.is_dir() and any(folder.iterdir()):
            raise _broken(folder, "manifest.json is missing") from error
        return None
    except (IsADirectoryError, ValueError, TypeError) as error:
        raise _broken(folder, f"manifest.json cannot be read: {error}") from error
    except OSError as error:
        raise disk_error(error, root()) from error
    for name in manifest.files:
        file = folder / name
        if not file.is_file() or file.stat().st_size != manifest.bytes_of(name):
            raise _broken(folder, f"{name} is missing or truncated")
    return Artifact(folder, manifest)


def manifest_of(folder: Path) -> Manifest:
    """An artifact's manifest; `OSError`, `ValueError` or `TypeError` where there is none."""
    return Manifest.from_json(json_file.read(folder / "manifest.json"))


def get(
    kind: str,
    key: str,
    build: Callable[[Path], dict[str, Any]],
    *,
    settings: dict[str, Any],
    parents: list[str] | None = None,
    allow: Build = Build.auto,
    otherwise: str = "",
) -> Artifact:
    """The artifact, built now if nobody has.

    `build(folder)` writes files into an empty folder and returns extra manifest fields. One process
    builds at a time per key; the others wait and then read. A build that fails or is killed
    leaves nothing behind that looks finished. Files hard-linked from a parent are not hashed again.
    otherwise: what helps besides build=auto, where `allow` forbids it.
    """
    found = find(kind, key)
    if found:
        return found
    if allow is Build.never:
        raise UserError(
            f"the {kind} {key} is missing and building is switched off",
            "build=never",
            "one that was built before",
            f"build=auto, or {otherwise}" if otherwise else "build=auto",
        )
    target = root() / kind / key
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locks.held(Path(f"{target}.lock"), f"the {kind} {key}"), fullness_said(root()):
            found = find(kind, key)
            if found:
                return found
            _publish(target, kind, key, build, settings, parents or [])
    except OSError as error:
        raise disk_error(error, root()) from error
    found = find(kind, key)
    assert found, f"{target} vanished after it was published"
    return dataclasses.replace(found, built=True)


def is_full(error: Exception) -> bool:
    """Whether a disk or a quota is full, also where a library says it in words of its own."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(
        f"os error {n})" in str(error) for n in full
    )


@contextmanager
def fullness_said(place: Path, fix: str | None = None) -> Iterator[None]:
    """A full disk or quota becomes `SdxlError`, also where safetensors has an error of its own."""
    try:
        yield
    except SdxlError:
        raise
    except Exception as error:
        if is_full(error):
            full = error if isinstance(error, OSError) else OSError(errno.ENOSPC, str(error))
            raise disk_error(full, place, fix) from error
        raise


def disk_error(error: OSError, place: Path, fix: str | None = None) -> SdxlError:
    """A full or unwritable disk, said plainly; `fix` is the line that chooses another place.

    A full disk is that of the file which the error names, wherever it lies.
    """
    if is_full(error):
        what = f"no space left on the disk of {error.filename or place}"
        own = FIX if place.is_relative_to(root()) else None
        return SdxlError(what, error.strerror, "free space", fix or own)
    if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return UserError(
            f"{place} cannot be written: {error.strerror}",
            error.filename,
            "a writable folder",
            fix or FIX,
        )
    return SdxlError(f"{place}: {error}")


def sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path, names: str = "*") -> str:
    """16 hex digits of what a file holds, or a folder's files; empty if there is nothing.

    names: a pattern that the names of a folder's files match, the others left out.
    Files up to 64 MiB are hashed whole. Of larger ones (weights) the size and 256 pieces of 64 KiB,
    evenly spread: two trainings of one architecture differ in every piece.
    """
    digest = hashlib.sha256()
    files = _files(path, names) if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            return ""
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}:{size}:".encode())
        with file.open("rb") as stream:
            if size <= _WHOLE:
                digest.update(stream.read())
                continue
            for piece in range(_PIECES):
                stream.seek(piece * (size - _PIECE) // (_PIECES - 1))
                digest.update(stream.read(_PIECE))
    return digest.hexdigest()[:16]


def _files(folder: Path, names: str) -> list[Path]:
    """The files below a folder in order; raises `UserError` for one that nobody means to hash."""
    found: list[Path] = []
    try:
        for count, each in enumerate(folder.rglob(names)):
            if count > MOST_FILES:
                raise UserError(
                    f"{folder} holds too much to be a part of a model or of a measurement",
                    f"more than {MOST_FILES:,} files",
                    "the folder of the model or the pictures alone",
                )
            if each.is_file():
                found.append(each)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read: {error.strerror}", error.filename, "a readable folder"
        ) from error
    return sorted(found)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(
            json.dumps(hidden(value), indent=2, allow_nan=False, default=str) + "\n"
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _publish(
    target: Path,
    kind: str,
    key: str,
    build: Callable[[Path], dict[str, Any]],
    settings: dict[str, Any],
    parents: list[str],
) -> None:
    for left in (root() / "tmp").glob(f"{kind}-{key}-*"):  # by a killed build: we hold its lock
        shutil.rmtree(left, ignore_errors=True)
    folder = root() / "tmp" / f"{kind}-{key}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    began = time.perf_counter()
    try:
        extra = build(folder)
        known = _known(parents)
        files = {
            str(f.relative_to(folder)): known.get(_inode(f))
            or {"sha256": sha256(f), "bytes": f.stat().st_size}
            for f in sorted(folder.rglob("*"))
            if f.is_file()
        }
        seconds = round(time.perf_counter() - began, 3)
        manifest = Manifest(kind, key, settings, parents, files, seconds=seconds)
        for name, value in extra.items():
            setattr(manifest, name, value)
        write_json(folder / "manifest.json", manifest.to_json())
        folder.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _known(parents: list[str]) -> dict[tuple[int, int], dict[str, Any]]:
    """(device, inode) -> hash and size of the parents' files, which a child may hard-link.

    A file written after the manifest that lists it is not what the manifest says: left out.
    """
    found = {}
    for parent in parents:
        for listing in root().glob(f"*/{parent}/manifest.json"):
            try:
                listed, files = listing.stat().st_mtime_ns, manifest_of(listing.parent).files
            except (OSError, ValueError, TypeError):
                continue  # damaged: its files are hashed again
            for name, facts in files.items():
                file = listing.parent / name
                known = isinstance(facts, dict) and {"sha256", "bytes"} <= facts.keys()
                if known and file.is_file() and file.stat().st_mtime_ns <= listed:
                    found[_inode(file)] = {"sha256": facts["sha256"], "bytes": facts["bytes"]}
    return found


def _inode(file: Path) -> tuple[int, int]:
    facts = file.stat()
    return facts.st_dev, facts.st_ino


def _broken(folder: Path, what: str) -> SdxlError:
    return SdxlError(
        f"the artifact {folder} is damaged: {what}",
        expected="the files its manifest lists",
        fix=f"rm -r {folder}   # it is built again when needed",
    )
