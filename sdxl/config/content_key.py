"""Content keys: settings as plain values, and a hash of them that no order of fields changes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from enum import Enum
from typing import Any


def added(default: Any) -> Any:
    """A setting that came after keys were in use: at its default it is no part of a key."""
    return dataclasses.field(default=default, metadata={"added": True})


def note(default: Any) -> Any:
    """A setting that says where others come from: no part of a key, whatever it is."""
    return dataclasses.field(default=default, metadata={"note": True})


def plain(value: Any) -> Any:
    """A dataclass as JSON-ready builtins (enums by value)."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def keyed(value: Any) -> Any:
    """`plain` without notes, and without `added` settings at their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = ((f, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {
            f.name: keyed(found)
            for f, found in given
            if not (f.metadata.get("note") or (f.metadata.get("added") and found == f.default))
        }
    return plain(value)


def key(*parts: Any) -> str:
    """Content key of resolved settings: 16 hex digits, independent of field order."""
    text = json.dumps([keyed(p) for p in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
