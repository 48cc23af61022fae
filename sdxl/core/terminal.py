"""The one console and the one kind of table; text from outside is never read as markup."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # rich takes a tenth of a second, which `--help` should not wait for
    from rich.console import Console
    from rich.table import Table

WIDTH = 160
"""Of lines that go to a file or another program."""


_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What moves a cursor, colours, rings, turns text around, or is no text at all."""


def printable(text: str) -> str:
    """Text from outside as one can show it: what a terminal would obey stands as `\\x1b`."""
    return _UNSEEN.sub(lambda found: ascii(found.group())[1:-1], text)


def say(text: str) -> None:
    """A line on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def tell(text: str) -> None:
    """A line on standard output."""
    print(printable(text), flush=True)


def console(*, stderr: bool = False, width: int = WIDTH) -> Console:
    """A console on standard output or error, as wide as the terminal where there is one."""
    from rich.console import Console
    from rich.segment import Segment

    class Shown(Console):
        """Whatever is rendered is printable."""

        def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
            for part in super().render(renderable, options):
                safe = part.control or not _UNSEEN.search(part.text)
                yield part if safe else Segment(printable(part.text), part.style)

    stream = sys.stderr if stderr else sys.stdout
    return Shown(
        stderr=stderr,
        width=None if stream.isatty() else width,
        highlight=False,
        markup=False,
        emoji=False,
    )


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str = "",
    right: Collection[str] = (),
    *,
    fold: bool = True,
) -> Table:
    """A table with a title at its left; the columns named in `right` hold numbers.

    Without `head` there is none, and the first column is a name. Long text is broken into lines
    or, without `fold`, cut off; headings and numbers stay whole.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(
        title=Text(title, style="bold") if title else None,
        title_justify="left",
        show_header=bool(head),
    )
    for name in head:
        made.add_column(
            Text(name),
            justify="right" if name in right else "left",
            overflow="fold" if fold else "ellipsis",
            no_wrap=not fold or name in right,
            min_width=len(name),
        )
    if not head:
        made.add_column(style="cyan", no_wrap=True)
        made.add_column(overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    return made
