"""A folder that appears whole or not at all, and never over somebody's files."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdxl.core.errors import UserError
from sdxl.core.store import disk_error, sha256

SUMS = "SHA256SUMS"


def check(target: Path) -> None:
    """Raise `UserError` unless `target` is free: not there, or an empty folder."""
    if target == Path.cwd():
        raise UserError(
            "the pack would replace the folder that you are in", str(target),
            "a folder that is new or empty", "--to pack",
        )  # fmt: skip
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists():
        raise UserError(
            f"{target} is in the way: a pack never overwrites",
            "a folder with files in it" if target.is_dir() else "a file",
            "a folder that is new or empty",
            f"--to {target}-2",
        )


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """A place beside `target` whose `pack/` becomes it at the end; what fails leaves nothing."""
    work = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    new = [folder for folder in work.parents if not folder.exists()]
    try:
        (work / "pack").mkdir(parents=True)
        yield work
        _sums(work / "pack")
        check(target)
        (work / "pack").replace(target)
    except OSError as error:
        raise disk_error(error, target, "--to FOLDER") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):  # the pack is there, or something of somebody else's
            for folder in new:
                folder.rmdir()


def _sums(folder: Path) -> None:
    """SHA-256 of every file, as `sha256sum --check` reads it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = [f"{sha256(file)}  {file.relative_to(folder)}\n" for file in files]
    (folder / SUMS).write_text("".join(lines))
