"""Whom a request asks for: a page of another site may reach this machine by a name of its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

ANY = "*"


def loopback(name: str) -> bool:
    """Whether a name or an address is this machine alone."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def names(bound: str, further: Collection[str]) -> frozenset[str] | None:
    """What a request may ask for beside `loopback`'s own; None: anything.

    Where other machines are let in the token keeps strangers out, whatever name they use.
    """
    if not loopback(bound) or ANY in further:
        return None
    return frozenset(name.lower() for name in further)


def asks(header: str, known: Collection[str] | None) -> bool:
    """Whether a `Host` header (NAME, NAME:PORT, [ADDRESS]:PORT, or none) asks for a known name."""
    if known is None or not header:  # no browser leaves it out
        return True
    name = header[1:].partition("]")[0] if header[0] == "[" else header.partition(":")[0]
    return loopback(name.lower()) or name.lower() in known
