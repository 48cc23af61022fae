"""JSON objects as dataclasses that lose nothing of what they do not know."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from types import UnionType
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

Reader = Callable[[Any], Any]


@dataclass
class JsonPart:
    """A JSON object: known fields as attributes, all others as they were.

    A field that is missing or not of its type has its default: None, or empty. What the file says
    of it stays in `other`, so that an object which is read and written again does not change.
    """

    other: dict[str, Any] = field(default_factory=dict, kw_only=True)
    _order: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    _strict: ClassVar[bool] = False  # a field of another type is an error

    @classmethod
    def from_json(cls, stored: Any) -> Self:
        """A part from what `json.loads` made of it; raises `TypeError` if that is no object."""
        other = dict(_object(stored))
        known: dict[str, Any] = {}
        for name, (attribute, read) in _readers(cls).items():
            try:
                if name in other:
                    known[attribute.name] = read(other[name])
                    del other[name]
            except TypeError as error:
                if cls._strict:
                    raise TypeError(f"{name}: {error}") from error
        part = cls(**known, other=other)
        part._order = tuple(stored)
        return part

    def to_json(self) -> dict[str, Any]:
        """The fields that were read, in that order, then those set since."""
        whole = dict(self.other)
        for name, (attribute, _) in _readers(type(self)).items():
            value = getattr(self, attribute.name)
            read = name in self._order and name not in whole and value is not None
            if read or value != _default(attribute) or self._complete:
                whole[name] = _plain(value)
        return {
            name: whole[name] for name in dict.fromkeys((*self._order, *whole)) if name in whole
        }

    @property
    def _complete(self) -> bool:
        """Are fields written that have their default?"""
        return False

    def __bool__(self) -> bool:
        return bool(self.to_json())


_known: dict[Any, dict[str, tuple[Field[Any], Reader]]] = {}


def _readers(part: type[JsonPart]) -> dict[str, tuple[Field[Any], Reader]]:
    """Name in the file -> field, and what reads it; worked out once for each class."""
    if part not in _known:
        hints = get_type_hints(part)
        own = [each for each in fields(part) if each.name not in ("other", "_order")]
        _known[part] = {
            each.metadata.get("json", each.name): (each, _reader(hints[each.name])) for each in own
        }
    return _known[part]


def _reader(hint: Any) -> Reader:
    """Checks a value against a type of the dataclasses above; raises `TypeError`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # `X | None`; None itself is kept in `other`
        return _reader(inner[0])
    if origin is list:
        return lambda value: [*map(_reader(inner[0]), _of(list, value))]
    if origin is dict:
        return _object
    if hint is Any:
        return lambda value: value
    if issubclass(hint, JsonPart):
        return hint.from_json
    return _number if hint is float else lambda value: _of(hint, value)


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"a {type(value).__name__}, expected a {kind.__name__}")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"a {type(value).__name__}, expected an object")
    return value


def _number(value: Any) -> float:
    wrong = isinstance(value, bool) or not isinstance(value, int | float)
    if wrong or not _finite(value):
        raise TypeError(f"{str(value)[:40]}, expected a number")
    return value


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _default(attribute: Field[Any]) -> Any:
    if attribute.default_factory is not MISSING:
        return attribute.default_factory()
    return attribute.default


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.to_json() if isinstance(value, JsonPart) else value
