"""Pictures of two folders that have the same names, and their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdxl.core.errors import UserError
from sdxl.model import caption_files, pictures

SHOWN = 5
"""Names in a sentence."""


@dataclass
class Matched:
    """Pictures of both folders by name, and the names that one folder alone has."""

    names: list[str]
    ours: dict[str, Path]
    theirs: dict[str, Path]
    only: tuple[list[str], list[str]]


def match(ours: Path, theirs: Path) -> Matched:
    """Pairs by name; raises `UserError` without any, or where a name stands for two pictures."""
    one, other = _by_name(ours), _by_name(theirs)
    names = sorted(one.keys() & other.keys())
    if not names:
        raise UserError(
            "no picture of one folder has the name of one in the other",
            f"{listed(sorted(one))} and {listed(sorted(other))}",
            "the same names in both, the endings apart",
        )
    only = sorted(one.keys() - other.keys()), sorted(other.keys() - one.keys())
    return Matched(names, one, other, only)


def captions(path: Path, matched: Matched) -> list[str]:
    """A caption for each pair: by the `id` of a .tsv, else a line for each picture of A."""
    rows = caption_files.read(path)
    if all(name for _, name in rows):
        by_name = {name: text for text, name in rows}
        if lacking := [name for name in matched.names if name not in by_name]:
            expected = "an `id` for each picture's name"
            raise UserError(f"{path} lacks captions", listed(lacking), expected)
        return [by_name[name] for name in matched.names]
    every = sorted(matched.ours)
    if len(rows) != len(every):
        raise UserError(
            f"{path} has other captions than A has pictures", f"{len(rows)} and {len(every)}",
            "a line for each picture of A in the order of names, or a .tsv with names as `id`",
        )  # fmt: skip
    by_name = dict(zip(every, (text for text, _ in rows), strict=True))
    return [by_name[name] for name in matched.names]


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError("there is no such folder", str(folder), "a folder of pictures")
    found: dict[str, Path] = {}
    for path in pictures.find(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise UserError(
                f"{folder} has two pictures of one name", f"{found[name].name}, {path.name}",
                "names that differ in more than their endings",
            )  # fmt: skip
        found[name] = path
    if not found:
        endings = " ".join(pictures.SUFFIXES)
        raise UserError(f"{folder} has no pictures", expected=f"files that end in {endings}")
    return found


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
