"""Captions from files, none of them lost: what cannot be read is refused with its line."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from sdxl.core.errors import UserError, did_you_mean

REPORTED_ROWS = 10
_LINE_END = re.compile(r"\r\n|\n|\r")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_COLUMNS = "id image_id caption height width file_name [coco_url], tab-separated"
_USED = ("caption", "id", "image_id")
_OTHERS = (".csv", ".json", ".jsonl", ".parquet", ".yaml", ".yml")
Row = tuple[str, str]
"""A caption and its id."""


def read(path: Path) -> list[Row]:
    """A file of captions by its ending: a table for .tsv, else one a line."""
    if path.suffix.lower() == ".tsv":
        return read_tsv(path)
    if path.suffix.lower() in _OTHERS:
        raise UserError(
            f"{path} is not read as captions", path.suffix, "one caption a line (.txt), or a .tsv"
        )
    return read_lines(path)


def read_lines(path: Path) -> list[Row]:
    """One caption a line; the ends of the file may be empty, no line between may be."""
    lines = _lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    _refuse(
        path,
        [f"line {at}: {bad}" for at, line in enumerate(lines, 1) if (bad := _unfit(line))],
        "a caption in each line",
    )
    if not lines:
        raise UserError(f"{path} has no captions", "an empty file", "one caption a line")
    return [(line.strip(), "") for line in lines]


def read_tsv(path: Path) -> list[Row]:
    """Each row of a tab-separated file with a header.

    The MLPerf files' columns: `id image_id caption height width file_name [coco_url]`; `caption`
    is needed, `id` used if there. A caption in quotes begins and ends in one line.
    """
    return [(row["caption"], row.get("id", "")) for row in _rows(path)]


def read_padded(path: Path) -> tuple[list[Row], int]:
    """The rows of a file that was filled up for a number of devices, and how many were no samples.

    Those are rows whose `id` is 0, and at its end rows that repeat the last `image_id`.
    """
    rows = _rows(path)
    kept = [row for row in rows if row.get("id") != "0"]
    while len(kept) > 1 and kept[-1].get("image_id") is not None:
        if kept[-1]["image_id"] != kept[-2]["image_id"]:
            break
        kept.pop()
    if not kept:
        raise UserError(f"{path} has no captions", "fillers only: every `id` is 0", "captions")
    return [(row["caption"], row.get("id", "")) for row in kept], len(rows) - len(kept)


def _rows(path: Path) -> list[dict[str, str]]:
    """Each row by the columns that are used."""
    header, *lines = _lines(path)
    columns = next(csv.reader([header], delimiter="\t"), [])
    places = _columns(path, columns)
    if lines and not lines[-1]:
        lines.pop()
    rows: list[dict[str, str]] = []
    bad: list[str] = []
    for at, line in enumerate(lines, 2):
        try:
            fields = next(csv.reader([line], delimiter="\t", strict=True), [])
        except csv.Error as error:
            bad.append(f"line {at}: {_said(error)}")
            continue
        if len(fields) != len(columns):
            bad.append(f"line {at}: {len(fields)} columns of {len(columns)}")
        elif problem := _unfit(fields[places["caption"]]):
            bad.append(f"line {at}: {problem}")
        else:
            rows.append({name: fields[place] for name, place in places.items()})
    _refuse(path, bad, f"{len(columns)} tab-separated columns and a caption in each row")
    if not rows:
        raise UserError(f"{path} has no captions", "a header only", "at least one row")
    return rows


def _lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, with or without a byte-order mark, whatever ends them."""
    try:
        content = path.read_bytes()
        if content.startswith(_UTF16):
            raise UserError(
                f"{path} is not UTF-8 text",
                "UTF-16, by its first two bytes",
                "UTF-8",
                f"iconv -f UTF-16 -t UTF-8 {path} > utf8.{path.name}",
            )
        return _LINE_END.split(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path} is not UTF-8 text",
            f"line {line}: {error}",
            "UTF-8",
            f"iconv -f WINDOWS-1252 -t UTF-8 {path} > utf8.{path.name}   # if it is that",
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read", error.strerror, "a text file") from error


def _columns(path: Path, columns: list[str]) -> dict[str, int]:
    """Where the caption, the id and the picture's id stand; each at most once."""
    for name in _USED:
        if columns.count(name) > 1:
            raise UserError(
                f"{path}, line 1: {columns.count(name)} columns are called `{name}`",
                " ".join(columns)[:120],
                "one of them",
            )
    if "caption" not in columns:
        close = did_you_mean("caption", [each.strip().lower() for each in columns])
        found = next((c for c in columns if close and c.strip().lower() == close), None)
        like = f"; `{found}` is not it" if found else ""
        raise UserError(
            f"{path}, line 1: no `caption` column{like}",
            " ".join(columns)[:120].strip() or "an empty file",
            _COLUMNS,
        )
    return {name: columns.index(name) for name in _USED if name in columns}


def _unfit(caption: str) -> str | None:
    """What is wrong with one caption."""
    if "\0" in caption:
        return "NUL character"
    shown = any(each.isprintable() and not each.isspace() for each in caption)
    return None if shown else "empty caption"


def _said(error: csv.Error) -> str:
    """csv's own message in words of the file."""
    said = str(error)
    if "unexpected end" in said:
        return "a quote that does not close in its line"
    if "expected after" in said:
        return 'text after a closing quote (inside quotes, write "" for each)'
    return said


def _refuse(path: Path, bad: list[str], expected: str) -> None:
    if bad:
        more = f"; and {len(bad) - REPORTED_ROWS} more" if len(bad) > REPORTED_ROWS else ""
        listed = "; ".join(bad[:REPORTED_ROWS]) + more
        raise UserError(f"{path} has malformed rows", listed, expected)
