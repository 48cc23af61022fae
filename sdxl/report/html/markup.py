"""HTML from small functions; plain strings are escaped, so nothing in a record becomes markup."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

VOID = {"br", "img", "input", "meta", "wbr"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def h(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """One element: `h("td", "a < b", class_="right")`.

    Children are escaped unless they are `Markup`; None is left out, lists are flattened. Attributes
    of value None or False are left out; `class_` is `class`, other underscores are hyphens.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{html.escape(str(value), quote=True)}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{join(*children)}</{name}>")


def join(*children: Any) -> Markup:
    """Children one after the other."""
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(str(child))
        elif isinstance(child, str):
            parts.append(html.escape(child, quote=True))
        elif isinstance(child, Iterable):
            parts.append(str(join(*child)))
        else:
            parts.append(html.escape(str(child)))
    return Markup("".join(parts))


def table(head: list[Any], rows: list[list[Any]], class_: str, title: str) -> Markup:
    """A table whose first column names the row; it scrolls sideways inside its own box.

    A cell may be a `Markup` of a whole `td`, or content.
    """
    body = [h("tr", [_cell(value, place) for place, value in enumerate(row)]) for row in rows]
    whole = h(
        "table",
        h("thead", h("tr", [_head(value) for value in head])),
        h("tbody", body),
        class_=class_ or None,
    )
    return h("div", whole, class_="scroll", tabindex="0", role="region", aria_label=title)


def _head(value: Any) -> Markup:
    ready = isinstance(value, Markup) and value.startswith("<th")
    return value if ready else h("th", value, scope="col")


def _cell(value: Any, place: int) -> Markup:
    if isinstance(value, Markup) and value.startswith(("<td", "<th")):
        return value
    return h("td", value) if place else h("th", value, scope="row")
