"""Words of a command line: how a setting is typed."""

from __future__ import annotations

import re
import shlex
from typing import Any

from sdxl.config.content_key import plain

_BARE = re.compile(r"[\w./:@%+*-][\w./:@%+*\- ]*")


def typed(key: str, value: Any) -> str:
    """`key=value` for the shell, quoted for Hydra too where it needs that."""
    return shlex.quote(f"{key}={_spelled(plain(value))}")


def _spelled(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:.15g}"
    if isinstance(value, list):
        return "[" + ",".join(map(_spelled, value)) + "]"
    return str(value) if _BARE.fullmatch(str(value)) else quoted(str(value))


def quoted(text: str) -> str:
    """A text as Hydra's grammar takes any."""
    return '"' + re.sub(r'(\\*)"', r'\1\1\\"', re.sub(r"(\\+)$", r"\1\1", text)) + '"'
