"""Wide tables as several narrow ones: no heading broken, no column cut, at any width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sdxl.core import terminal

if TYPE_CHECKING:
    from rich.table import Table

MOST = 8
"""Columns that the eye takes in at once."""
NAME = 28
"""Characters after which a setting's name may go on in the next line."""
BORDER = 3
"""Characters around a column, its frame included."""
KEYS = 2
"""Columns at the left that every table repeats: number and name."""
WORDS = ("setting", "status")


def tables(
    head: Sequence[str], rows: Sequence[Sequence[str]], title: str, width: int
) -> Iterator[Table]:
    """The columns of a table in as many tables as `width` characters ask for, in their order."""
    if not rows:
        return
    for count, places in enumerate(_parts(head, rows, width)):
        names = [head[place] for place in places]
        part = [[row[place] for place in places] for row in rows]
        yield terminal.table(names, part, "" if count else title, {*names} - {*WORDS})


def _parts(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Places of the columns of each table."""
    sizes = [max(len(name), *(len(row[n]) for row in rows)) for n, name in enumerate(head)]
    keys = [*range(min(KEYS, len(head)))]
    start = 1 + sum(min(sizes[place], NAME) + BORDER for place in keys)
    parts, room = [[*keys]], start
    for place in range(len(keys), len(head)):
        needed = sizes[place] + BORDER
        if len(parts[-1]) > len(keys) and (room + needed > width or len(parts[-1]) == MOST):
            parts.append([*keys])
            room = start
        parts[-1].append(place)
        room += needed
    return parts
