"""The one console and the one kind of table; text from outside is never read as markup."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # rich takes a tenth of a second, which `--help` should not wait for
    from rich.console import Console
    from rich.table import Table

WIDTH = 160
"""Of lines that go to a file or another program."""


def console(*, stderr: bool = False, width: int = WIDTH) -> Console:
    """A console on standard output or error, as wide as the terminal where there is one."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
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
