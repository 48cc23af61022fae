"""What differs between two records: settings, surroundings, numbers, pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from sdxl.config.schema import QUANT_KEYS
from sdxl.core import terminal
from sdxl.core.command import Parser, ended
from sdxl.core.errors import UserError
from sdxl.core.record import Paired
from sdxl.quality.baseline import compare
from sdxl.quality.paired import sentence
from sdxl.report import by_prompt
from sdxl.report.cell import BASELINE, REFERENCE, Cell, other_scores, surroundings
from sdxl.report.cells import load
from sdxl.report.html.pictures import pixels
from sdxl.report.values import flatten, number

NOT_SETTINGS = ("tracking.", "plan", "build", *QUANT_KEYS)
"""Settings that change no figure, or that stand in `quant.` too."""


@dataclass(frozen=True)
class Number:
    """One figure of both records; `verdict` is `same`, `noise`, `differs` or `unknown spread`."""

    name: str
    one: float | None
    other: float | None
    verdict: str
    spread: float | None = None  # largest minus least of the repeats, of the wider record

    @property
    def change(self) -> float | None:
        """Of B over A, as a fraction; None where that has no meaning."""
        if self.one is None or self.other is None or not self.one:
            return None
        return self.other / self.one - 1


@dataclass(frozen=True)
class Pictures:
    """Kept pictures that both records have."""

    shared: int
    equal: int
    only: tuple[int, int]  # prompts that one record alone has
    comparison: dict[str, Any] | None = None  # sdxl.quality.baseline.compare of those that differ
    missing: int = 0  # differing pictures whose files are not there


@dataclass(frozen=True)
class Difference:
    """A and B side by side."""

    one: Cell
    other: Cell
    settings: dict[str, tuple[Any, Any]]
    environment: dict[str, tuple[Any, Any]]
    numbers: list[Number]
    pictures: Pictures
    paired: list[Paired]  # B beside A, prompt by prompt
    unpaired: str = ""  # why there are none


def diff(one: Cell, other: Cell) -> Difference:
    """Compare two records; reads their pictures where the hashes differ."""
    return Difference(
        one,
        other,
        {
            name: values
            for name, values in unequal(one.record.config, other.record.config).items()
            if not name.startswith(NOT_SETTINGS)
        },
        unequal(surroundings(one), surroundings(other)),
        numbers(one, other),
        pictures(one, other),
        *by_prompt.pairs(other, one),
    )


def unequal(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted names whose values differ, with both; a name that one lacks is None there."""
    first, second = flatten(one), flatten(other)
    names = [*first, *(name for name in second if name not in first)]
    pairs = ((name, (first.get(name), second.get(name))) for name in names)
    return {name: (a, b) for name, (a, b) in pairs if a != b}


def numbers(one: Cell, other: Cell) -> list[Number]:
    """Speed, latency, memory and quality; only speed has repeats to tell noise by."""
    found = [_speed(one, other)]
    metrics = {cell.record.performance.metric for cell in (one, other)}
    if len(metrics) == 1 and one.record.performance.unit == "ms":
        found.append(
            _plain(f"{metrics.pop()}, ms", *(c.record.performance.value for c in (one, other)))
        )
    for name in ("p50", "p90", "p99"):
        found.append(_plain(f"latency {name}, ms", *(c.latency.get(name) for c in (one, other))))
    found.append(_plain("peak memory, GiB", one.memory_gib, other.memory_gib))
    for what in (REFERENCE, BASELINE):
        sides = [replace(cell, against=what) for cell in (one, other)]
        found.append(_exact(f"PSNR to the {what}, dB", *(number(c.psnr) for c in sides)))
        found.append(_exact(f"SSIM to the {what}", *(c.ssim for c in sides)))
    scores = (other_scores(one), other_scores(other))
    found += [_exact(n, *(s.get(n) for s in scores)) for n in sorted({*scores[0], *scores[1]})]
    return [each for each in found if each.one is not None or each.other is not None]


def pictures(one: Cell, other: Cell) -> Pictures:
    """Pixel hashes of the prompts both have, and PSNR and SSIM of those that differ."""
    first, second = (_hashes(cell) for cell in (one, other))
    shared = sorted(set(first) & set(second))
    unlike = [index for index in shared if first[index] != second[index]]
    both = [(pixels(one, index), pixels(other, index)) for index in unlike]
    usable = [(a, b) for a, b in both if a is not None and b is not None and a.shape == b.shape]
    comparison = None
    if usable:
        comparison = compare([a for a, _ in usable], [b for _, b in usable])
    return Pictures(
        len(shared),
        len(shared) - len(unlike),
        (len(first) - len(shared), len(second) - len(shared)),
        comparison,
        len(unlike) - len(usable),
    )


def main(words: Sequence[str]) -> int:
    """The command; returns the exit code."""
    return ended(lambda: command(words))


def command(words: Sequence[str]) -> dict[str, Any]:
    """`python -m sdxl diff A B [--json]`; returns the JSON line."""
    parser = Parser(prog="python -m sdxl diff", description=__doc__)
    parser.add_argument("one", type=Path, metavar="A", help="a record.json or its folder")
    parser.add_argument("other", type=Path, metavar="B")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    asked = parser.parse_args(list(words))
    found = diff(_one(asked.one), _one(asked.other))
    if not asked.json:
        show(found)
    return data(found)


def data(found: Difference) -> dict[str, Any]:
    """The comparison as JSON."""
    shown = found.pictures
    comparison = {k: v for k, v in (shown.comparison or {}).items() if k != "pairs"}
    return {
        "status": "ok",
        "a": str(found.one.path),
        "b": str(found.other.path),
        "settings": {k: list(v) for k, v in found.settings.items()},
        "environment": {k: list(v) for k, v in found.environment.items()},
        "numbers": [
            {"name": n.name, "a": n.one, "b": n.other, "change": n.change, "spread": n.spread,
             "verdict": n.verdict}
            for n in found.numbers
        ],
        "images": {"shared": shown.shared, "equal": shown.equal, "only_a": shown.only[0],
                   "only_b": shown.only[1], "not_found": shown.missing,
                   "comparison": comparison or None},
        "paired": [each.to_json() for each in found.paired],
        "unpaired": found.unpaired or None,
        "exit_code": 0,
    }  # fmt: skip


def show(found: Difference) -> None:
    """Tables on standard output."""
    console = terminal.console(width=140)
    for letter, cell in (("A", found.one), ("B", found.other)):
        console.print(f"{letter}  {cell.record.status}  {cell.record.command}", soft_wrap=True)
        console.print(f"   {cell.path}", soft_wrap=True)
    for title, pairs in (("settings", found.settings), ("environment", found.environment)):
        rows = [[name, _text(a), _text(b)] for name, (a, b) in pairs.items()]
        _table(console, title, ["", "A", "B"], rows, f"{title}: no difference")
    rows = [
        [n.name, _figure(n.one), _figure(n.other),
         "" if n.change is None else f"{n.change:+.1%}", _said(n)]
        for n in found.numbers
    ]  # fmt: skip
    _table(console, "numbers", ["", "A", "B", "B over A", ""], rows, "numbers: none in common")
    console.print(_picture_line(found.pictures))
    rows = [[p.metric, _figure(p.theirs), _figure(p.ours), sentence(p)] for p in found.paired]
    reason = f"prompt by prompt: {found.unpaired}"
    _table(console, "prompt by prompt", ["", "A", "B", "B beside A"], rows, reason)
    for cell in (found.one, found.other):
        if cell.meaningless:
            console.print(f"the speed of {cell.label} means nothing: {cell.meaningless}")


def _picture_line(shown: Pictures) -> str:
    if not shown.shared:
        return "pictures: no prompt in common"
    line = f"pictures: {shown.equal} of {shown.shared} equal to the last bit"
    if baseline := shown.comparison:
        line += f"; those that differ: PSNR {baseline['psnr_db']:.1f} dB (least "
        line += f"{baseline['psnr_min_db']:.1f}), SSIM {baseline['ssim']:.4f}, largest deviation "
        line += f"{baseline['max_deviation']}/255"
    if shown.missing:
        line += f"; {shown.missing} could not be read or differ in size"
    return line


def _table(
    console: Any, title: str, head: list[str], rows: list[list[str]], empty: str
) -> None:  # fmt: skip
    right = ("A", "B", "B over A") if "B over A" in head else ()
    console.print(terminal.table(head, rows, title, right) if rows else empty)


def _one(path: Path) -> Cell:
    """The record typed; of a folder its own record, without the baseline's beside it."""
    place = path / "record.json" if (path / "record.json").is_file() else path
    found = [cell for cell in load([place]).cells if place.is_dir() or cell.path == place.resolve()]
    if len(found) != 1:
        raise UserError(
            f"{path} holds {len(found)} records", expected="one record.json or its folder"
        )
    return found[0]


def _speed(one: Cell, other: Cell) -> Number:
    """Medians where a cell was repeated; a gap inside the wider spread is noise."""
    values = [median(cell.repeats) if cell.repeats else cell.speed for cell in (one, other)]
    spreads = [max(c.repeats) - min(c.repeats) for c in (one, other) if len(c.repeats) > 1]
    if not spreads:
        return _plain("images per second", values[0], values[1])
    if values[0] is None or values[1] is None:
        return Number("images per second", values[0], values[1], "unknown", max(spreads))
    gap = abs(values[0] - values[1])
    verdict = "same" if not gap else ("noise" if gap <= max(spreads) else "differs")
    return Number("images per second", values[0], values[1], verdict, max(spreads))


def _plain(name: str, one: float | None, other: float | None) -> Number:
    if one is None or other is None:
        return Number(name, one, other, "only one")
    return Number(name, one, other, "same" if one == other else "unknown spread")


def _exact(name: str, one: float | None, other: float | None) -> Number:
    """A figure that does not scatter from run to run of the same code on the same machine."""
    if one is None or other is None:
        return Number(name, one, other, "only one")
    return Number(name, one, other, "same" if one == other else "differs")


def _said(found: Number) -> str:
    match found.verdict:
        case "noise":
            return f"noise: inside the run-to-run spread of {found.spread:.3g}"
        case "differs" if found.spread is not None:
            return f"differs: outside the run-to-run spread of {found.spread:.3g}"
        case "unknown spread":
            return "one run each: the spread is unknown"
    return found.verdict


def _hashes(cell: Cell) -> dict[int, str]:
    known = ((image.index, image.sha256) for image in cell.record.images)
    return {index: digest for index, digest in known if index is not None and digest}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.5g}"


def _text(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)
