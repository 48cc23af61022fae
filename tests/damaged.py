"""Damage that files take: cut, flipped, of another kind, too deep, too large, a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    *(None, True, -1, 0, 1.5, 1e308, 10**400, float("inf"), float("nan"), "", "\x00", "\x1b[31m"),
    *("../x", "\ud800", [], [[]], {}, {"": {}}, [1, "x", None], {"name": 5}),
]
"""Values where others belong."""
DEEP = b"[" * 20_000
OTHERS = [b"", b"{", b"null", b"1", b'"x"', b"[]", b"{}", b"\xff\xfe\x00", b"\x00" * 64, DEEP,
          b'{"a":' * 20_000, b"1" * 6000, b"1e999", b"NaN", b"PK\x03\x04"]  # fmt: skip
"""Contents of another kind."""


@st.composite
def of_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """The file cut short, with bits flipped, with bytes put in, or something else."""
    kind = draw(st.sampled_from(["cut", "flip", "insert", "other"]))
    place = draw(st.integers(0, len(whole) - 1))
    if kind == "cut":
        return whole[:place]
    if kind == "flip":
        return (
            whole[:place] + bytes([whole[place] ^ draw(st.integers(1, 255))]) + whole[place + 1 :]
        )
    if kind == "insert":
        return whole[:place] + draw(st.binary(min_size=1, max_size=9)) + whole[place:]
    return draw(st.sampled_from(OTHERS))


@st.composite
def of_json(draw: st.DrawFn, whole: Any) -> bytes:
    """One value anywhere in the document replaced, taken away, or put in; or `of_bytes`."""
    text = json.dumps(whole).encode()
    if draw(st.booleans()):
        return draw(of_bytes(text))
    copy = json.loads(text)
    places = list(_places(copy))
    parent, name = places[draw(st.integers(0, len(places) - 1))]
    if draw(st.integers(0, 4)) == 0:
        del parent[name]
    else:
        parent[name] = draw(st.sampled_from(ODD))
    return json.dumps(copy).encode()


def _places(value: Any):
    names = value if isinstance(value, dict) else range(len(value))
    for name in names:
        yield value, name
        if isinstance(value[name], dict | list):
            yield from _places(value[name])


@st.composite
def of_safetensors(draw: st.DrawFn, whole: bytes) -> bytes:
    """A header that says something else, a length that lies, or `of_bytes`."""
    length = int.from_bytes(whole[:8], "little")
    kind = draw(st.sampled_from(["header", "length", "bytes"]))
    if kind == "header":
        header = draw(of_json(json.loads(whole[8 : 8 + length])))
        return len(header).to_bytes(8, "little") + header + whole[8 + length :]
    if kind == "length":
        other = draw(st.sampled_from([0, 1, length - 1, length + 1, 10**8 + 1, 2**63, 2**64 - 1]))
        return other.to_bytes(8, "little") + whole[8:]
    return draw(of_bytes(whole))


def put(path: Path, content: bytes) -> Path:
    """`content` as the file; returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
