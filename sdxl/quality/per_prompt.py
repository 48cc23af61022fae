"""Figures of each prompt, ours and the reference picture's, kept in a file beside the record.

    {"schema": 1, "prompts": [[row, caption], ...],
     "figures": {name: {"higher_is_better": true, "answer": false,
                        "values": [...], "reference": [...]}}}

`prompts` are rows of the dataset with 8 hex digits of the caption's SHA-256; both lists of a figure
follow their order, null where a prompt has none. `reference` is absent for distances between ours
and the reference's picture.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdxl.core import json_file, store
from sdxl.core.errors import UserError
from sdxl.core.types import Prompt

FILE = "prompts.json"
SCHEMA = 1
DIGITS = 6
"""Significant digits of a figure in the file."""
CHANGED = "answers_changed"

Name = tuple[int, str]
"""Row and caption: what makes prompts of two cells the same."""


@dataclass(frozen=True)
class Kind:
    """How a figure is to be read; `answer`: 1 right, 0 wrong."""

    higher_is_better: bool = True
    answer: bool = False


NUMBER, ANSWER, DISTANCE = Kind(), Kind(answer=True), Kind(higher_is_better=False)


@dataclass
class Figure:
    """One figure by prompt."""

    kind: Kind = NUMBER
    values: dict[Name, float] = field(default_factory=dict)
    reference: dict[Name, float] = field(default_factory=dict)


class PerPrompt:
    """The figures of a run's prompts."""

    def __init__(self, prompts: Sequence[Prompt] = ()) -> None:
        self._names = [(prompt.row, _digest(prompt.text)) for prompt in prompts]
        self.figures: dict[str, Figure] = {}

    def take(
        self, indices: Iterable[int], figures: Mapping[str, Sequence[float | None]],
        kinds: Mapping[str, Kind], *, reference: bool = False,
    ) -> None:  # fmt: skip
        """Figures of the prompts at these positions, ours or those of the reference's pictures."""
        names = [self._names[index] for index in indices]
        for figure, values in figures.items():
            kept = self.figures.setdefault(figure, Figure(kinds.get(figure, NUMBER)))
            target = kept.reference if reference else kept.values
            pairs = zip(names, values, strict=True)
            target.update((name, float(value)) for name, value in pairs if value is not None)

    def changed(self) -> Figure:
        """1 where any answer differs from the reference picture's, 0 where none does."""
        found = Figure(dataclasses.replace(ANSWER, higher_is_better=False))
        for figure in self.figures.values():
            if figure.kind.answer:
                for name in figure.values.keys() & figure.reference.keys():
                    differs = figure.values[name] != figure.reference[name]
                    found.values[name] = max(found.values.get(name, 0.0), float(differs))
        return found

    def write(self, folder: Path) -> dict[str, Any]:
        """The file, whole; returns what a record says of it, nothing without figures."""
        if not self.figures:
            return {}
        known = set().union(*(f.values for f in self.figures.values()))
        prompts = sorted(known)
        whole = {
            "schema": SCHEMA,
            "prompts": prompts,
            "figures": {name: _packed(each, prompts) for name, each in self.figures.items()},
        }
        path = folder / FILE
        path.write_text(json.dumps(whole, separators=(",", ":"), allow_nan=False) + "\n")
        facts = {"file": FILE, "sha256": store.sha256(path), "prompts": len(prompts)}
        return {**facts, "figures": [*self.figures]}


def read(path: Path) -> PerPrompt:
    """What `write` left; raises `UserError` if the file holds something else."""
    found = PerPrompt()
    try:
        stored = json_file.read(path)
        names: list[Name] = [(int(row), str(caption)) for row, caption in stored["prompts"]]
        for name, each in stored["figures"].items():
            kind = Kind(bool(each["higher_is_better"]), bool(each["answer"]))
            ours, theirs = (_unpacked(each.get(side), names) for side in ("values", "reference"))
            found.figures[name] = Figure(kind, ours, theirs)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{path} holds no figures by prompt", str(error)[:200], "the file beside a record",
            "run the cell again",
        ) from error  # fmt: skip
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _packed(figure: Figure, prompts: Sequence[Name]) -> dict[str, Any]:
    def column(values: dict[Name, float]) -> list[float | None]:
        return [_rounded(values[name]) if name in values else None for name in prompts]

    kind = dataclasses.asdict(figure.kind)
    own = {**kind, "values": column(figure.values)}
    return {**own, "reference": column(figure.reference)} if figure.reference else own


def _rounded(value: float) -> float:
    found = float(f"{value:.{DIGITS}g}")
    return int(found) if found.is_integer() else found


def _unpacked(values: Sequence[float | None] | None, names: Sequence[Name]) -> dict[Name, float]:
    if values is None:
        return {}
    pairs = zip(names, values, strict=True)
    return {name: float(value) for name, value in pairs if value is not None}
