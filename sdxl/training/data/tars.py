"""Tar files of samples: which ones a word names, where in each what lies; nothing is skipped."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.training.data import tar_index

LATENTS, MOMENTS = "latents.npy", "npy"
"""Parts of a sample: latents as the UNet sees them, or the VAE's mean and log-variance."""
FIX = "python -m sdxl shards IMAGES OUT model=..."
Place = tuple[int, int]
"""Offset and length in bytes."""
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{},]*(?:,[^{},]*)+))\}")
_GLOB = re.compile(r"[*?[]")
_BLOCK = 512


@dataclass(frozen=True)
class Sample:
    """Where a sample lies: its file's number, its name, ending -> (offset, length) in bytes."""

    file: int
    name: str
    parts: dict[str, Place]


def files_of(word: str) -> list[Path]:
    """The shards of a folder, of a glob, or of a name with braces: `{000..012}`, `{a,b}`."""
    found: list[Path] = []
    for name in _expanded(word):
        path = store.resolve(name)
        if path.is_dir():
            found += sorted(path.glob("*.tar"))
        elif _GLOB.search(path.name):
            found += sorted(path.parent.glob(path.name))
        elif path.is_file():
            found.append(path)
        else:
            raise UserError("there are no shards", name, "a .tar file of that name", FIX)
    if not found:
        raise UserError("there are no shards", word, "a folder of .tar files, or a glob", FIX)
    return found


def _expanded(word: str) -> Iterator[str]:
    """The names that braces stand for, as a shell would expand them."""
    match = _BRACES.search(word)
    if not match:
        yield word
        return
    first, last, listed = match.groups()
    if listed is None:
        low, high, width = int(first), int(last), len(first) if first.startswith("0") else 0
        step = 1 if low <= high else -1
        middles = [f"{number:0{width}d}" for number in range(low, high + step, step)]
    else:
        middles = listed.split(",")
    for middle in middles:
        yield from _expanded(word[: match.start()] + middle + word[match.end() :])


def index(number: int, file: Path) -> list[Sample]:
    """Every sample of a tar with latents or moments; by the index beside it, if it has one.

    Raises `UserError` if a part of it would be lost.
    """
    found = tar_index.read(file)
    samples = members(number, file) if found is None else [Sample(number, *each) for each in found]
    for sample in samples:
        parts, name = sample.parts, sample.name
        if not {LATENTS, MOMENTS} & parts.keys():
            raise UserError(f"{file}: sample `{name}` has no {LATENTS}", " ".join(parts), fix=FIX)
        if empty := [part for part, (_, length) in parts.items() if not length]:
            raise UserError(f"{file}: sample `{name}` is empty", " ".join(empty), fix=FIX)
    return samples


def members(number: int, file: Path) -> list[Sample]:
    """Every sample of a tar in its order; raises `UserError` if a part of it would be lost."""
    samples: dict[str, dict[str, Place]] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if not member.isdir() and not member.name.rpartition("/")[2].startswith("._"):
                    _put(samples, member)
            _check_end(file, tar.offset)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read", str(error), "an uncompressed tar", FIX) from error
    return [Sample(number, name, parts) for name, parts in samples.items()]


def _put(samples: dict[str, dict[str, Place]], member: tarfile.TarInfo) -> None:
    """A member as a part of its sample: a name ends at the first dot, `TXT` is `txt`."""
    folder, _, base = member.name.rpartition("/")
    name, _, ending = base.partition(".")
    ending = ending.lower()
    if not member.isreg() or member.issparse():
        raise ValueError(f"{member.name} is no plain file")
    parts = samples.setdefault(f"{folder}/{name}".strip("/"), {})
    if ending in parts:
        raise ValueError(f"{member.name} is there twice")
    parts[ending] = member.offset_data, member.size


def _check_end(file: Path, offset: int) -> None:
    """A tar ends in zeros; a cut, a damaged header or a second tar would end it silently."""
    with file.open("rb") as stream:
        stream.seek(offset)
        mark = stream.read(_BLOCK)
        if len(mark) < _BLOCK:
            raise ValueError("it is cut short: there is no end mark")
        while mark:
            if any(mark):
                raise ValueError(f"a damaged header, or another tar, at byte {stream.tell():,}")
            mark = stream.read(1 << 20)
