"""The report without a browser: terminal table, Markdown for a pull request, JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdxl.core import terminal
from sdxl.report import by_prompt, seeds, trainings, work
from sdxl.report.axes import COSTS
from sdxl.report.cell import BASELINE, Cell, heading, other_scores
from sdxl.report.cells import Cells
from sdxl.report.choose import answer, front, machine
from sdxl.report.limits import Limits
from sdxl.report.terminal import wide
from sdxl.report.values import DASH, STATUS_WORD, decibels, milliseconds, rate

if TYPE_CHECKING:
    from rich.console import Console

Table = tuple[list[str], list[list[str]]]
WIDTH = 100
"""Of the tables where standard output is no terminal."""


def show(found: Cells, limits: Limits) -> None:
    """The answer and the tables of each group of comparable cells, on standard output."""
    console = terminal.console(width=WIDTH)
    for title, cells in found.groups.items():
        said = answer(cells, limits)
        console.print(said.sentence, style="bold")
        lines = [f"{name}: {text}" for name, text in said.facts]
        _indented(console, lines)
        for made in wide.tables(*results(cells), title, console.width):
            console.print(made)
        head, told = by_prompt.table(cells, said.anchor, brief=True)
        if told:
            console.print(terminal.table(head, told, "quality, prompt by prompt"))
        over, spreads = seeds.table(cells)
        for made in wide.tables(over, spreads, seeds.NOTE, console.width):
            console.print(made)
        refused = [f"{cell.number} breaks a limit: {why}" for cell, why in said.refused]
        _indented(console, [*refused, *said.notes])
        console.print()
    for made in wide.tables(*trainings.table(found.trainings), trainings.NOTE, console.width):
        console.print(made)
    for name, reason in unfinished(found):
        console.print(f"not measured: {name}: {reason}", soft_wrap=True)


def _indented(console: Console, lines: Sequence[str]) -> None:
    """Lines under a heading; what is too long goes on below its own beginning."""
    from rich.padding import Padding
    from rich.text import Text

    for line in lines:
        console.print(Padding(Text(line), (0, 0, 0, 2)))


def markdown(found: Cells, limits: Limits) -> str:
    """The same as GitHub Markdown; what stands in records cannot become markup."""
    parts = ["## Which setting should ship?"]
    for title, cells in found.groups.items():
        said = answer(cells, limits)
        head, rows = results(cells)
        if limits:
            head = [*head, "limits"]
            rows = [[*row, "; ".join(limits.broken(cell)) or "kept"]
                    for row, cell in zip(rows, cells, strict=True)]  # fmt: skip
        parts += [f"**{escape(title)}.** {escape(said.sentence)}"]
        parts.append("\n".join(f"- {escape(f'{name}: {text}')}" for name, text in said.facts))
        parts.append("\n".join([_line(head), _line(["---"] * len(head)), *map(_line, rows)]))
        further = ((by_prompt.NOTE, by_prompt.table(cells, said.anchor)),
                   (seeds.NOTE, seeds.table(cells)))  # fmt: skip
        for note, (head, rows) in further:
            if rows:
                table = [_line(head), _line(["---"] * len(head)), *map(_line, rows)]
                parts += [escape(note), "\n".join(table)]
        parts.append("\n".join(f"- {escape(note)}" for note in said.notes))
        parts.append(f"Measured on {escape(', '.join(sorted({machine(c) for c in cells})))}.")
    if found.trainings:
        head, rows = trainings.table(found.trainings)
        table = [_line(head), _line(["---"] * len(head)), *map(_line, rows)]
        parts += [escape(trainings.NOTE), "\n".join(table)]
    if missing := unfinished(found):
        lines = "\n".join(f"- {escape(name)}: {escape(reason)}" for name, reason in missing)
        parts.append(f"Not measured:\n\n{lines}")
    lines = "\n".join(
        f"{cell.number}. {cell.record.command}" for cell in (*found.cells, *found.trainings)
    )
    fence = "`" * max(3, 1 + _longest_fence(lines))
    parts.append(f"<details><summary>Commands</summary>\n\n{fence}\n{lines}\n{fence}\n\n</details>")
    return "\n\n".join(part for part in parts if part) + "\n"


def data(found: Cells, limits: Limits) -> dict[str, Any]:
    """Everything that the page shows, as JSON."""
    groups = []
    for title, cells in found.groups.items():
        said = answer(cells, limits)
        groups.append(
            {
                "work": title,
                "answer": said.sentence,
                "best": said.best.number if said.best else None,
                "runner_up": said.runner_up.number if said.runner_up else None,
                "margins": said.margins,
                "would_change_it": said.changes,
                "cannot_be_told_apart": said.alike,
                "by_prompt": by_prompt.data(cells, said.anchor),
                "pareto": [cell.number for cell in front(cells)],
                "pareto_by": {
                    axis.name: [cell.number for cell in front(cells, axis)]
                    for axis in COSTS
                    if any(map(axis.value, cells))
                },
                "notes": said.notes,
                "cells": [cell.number for cell in cells],
                "over_seeds": [
                    {
                        "setting": each.label,
                        "cells": [cell.number for cell in each.cells],
                        "scores": {
                            name: {"mean": s.mean, "half_95": s.half, "values": list(s.values)}
                            for name, s in each.scores.items()
                        },
                    }
                    for each in seeds.settings(cells)
                ],
                "breaking_limits": {str(cell.number): why for cell, why in said.refused},
            }
        )
    return {
        "status": "ok",
        "limits": str(limits) or None,
        "groups": groups,
        "cells": [_cell(cell) for cell in found.cells],
        **({"trainings": trainings.data(found.trainings)} if found.trainings else {}),
        "unreadable": [{"path": str(path), "reason": why} for path, why in found.unreadable],
        "exit_code": 0,
    }


def results(cells: Sequence[Cell]) -> Table:
    """(head, rows) of one group; a speed that means nothing stands in brackets.

    The first eight columns are what an answer rests on; scores, energy and price follow.
    """
    found = [_row(cell) for cell in cells]
    for name in sorted({name for cell in cells for name in other_scores(cell)}):
        for row, cell in zip(found, cells, strict=True):
            row[heading(name, cells)] = _form(other_scores(cell).get(name), ".4g")
    lacking = [name for name in MAY_LACK if all(row[name] == DASH for row in found)]
    head = [name for name in found[0] if name not in lacking]
    return head, [[row[name] for name in head] for row in found]


MAIN = ("#", "setting", "status", "images/s", "speed-up", "p99 ms", "GiB", "PSNR dB")
"""Columns that an answer rests on."""
MAY_LACK = ("PSNR dB", "SSIM", "UNet forwards", "UNet rows", "TFLOP/image", "of closed", "J/image",
            "price/1,000", "best published", "of it")  # fmt: skip
"""Columns that are left out where no cell has a figure."""


def _row(cell: Cell) -> dict[str, str]:
    """The fixed columns of one cell."""
    p99, psnr, short = cell.latency.get("p99"), cell.psnr, work.of(cell.record)
    return {
        "#": str(cell.number),
        "setting": cell.label,
        "status": STATUS_WORD.get(cell.record.status, DASH),
        "images/s": _doubt(cell, rate(cell.speed) if cell.speed else DASH),
        "speed-up": _doubt(cell, _form(cell.speed_up, ".2f")),
        "p99 ms": _doubt(cell, milliseconds(p99) if p99 else DASH),
        "GiB": _form(cell.memory_gib, ".2f"),
        "PSNR dB": psnr_text(cell) if psnr is not None else DASH,
        "SSIM": _form(cell.ssim, ".4f"),
        "UNet forwards": str(short.forwards) if short else DASH,
        "UNet rows": str(short.rows) if short else DASH,
        "TFLOP/image": _form(short.tflop if short else None, ".4g"),
        "of closed": _form(short.share if short else None, ".0%"),
        "J/image": _doubt(cell, _form(cell.joules, ".4g")),
        "price/1,000": _doubt(cell, _form(cell.price, ".4g")),
        "best published": best_text(cell),
        "of it": _doubt(cell, f"{cell.best_published.ratio:.2f}" if cell.best_published else DASH),
    }


def best_text(cell: Cell) -> str:
    """The best published result on its accelerator: images/s of one, and whose."""
    best = cell.best_published
    return f"{rate(best.rate)}/s, {best.source}" if best else DASH


def psnr_text(cell: Cell) -> str:
    """The quality measure in a table: `24.1`, `identical`, `baseline`."""
    if cell.is_baseline and not cell.comparison:
        return BASELINE
    return decibels(cell.psnr).removesuffix(" dB")


def unfinished(found: Cells) -> list[tuple[str, str]]:
    """(what, why) of cells without a measurement and of files that are no records."""
    cells = [
        (f"{cell.number} {cell.label}", f"{cell.record.status}: {cell.record.reason}")
        for cell in found.unfinished
    ]
    return cells + [(str(path), f"unreadable: {why}") for path, why in found.unreadable]


def escape(text: str) -> str:
    """Text that stays text in Markdown: no markup, no HTML, no mention, no new line."""
    plain = " ".join(text.split()).replace("\\", "\\\\")
    for character in "`*_{}[]|#~":
        plain = plain.replace(character, f"\\{character}")
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return terminal.printable(plain).replace("@", "@<!-- -->")  # GitHub tells nobody


def _line(values: Sequence[str]) -> str:
    rule = all(value == "---" for value in values)
    return f"| {' | '.join(values if rule else map(escape, values))} |"


def _longest_fence(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _form(value: float | None, form: str) -> str:
    return DASH if value is None else f"{value:{form}}"


def _doubt(cell: Cell, text: str) -> str:
    return f"({text})" if cell.meaningless and text != DASH else text


def _cell(cell: Cell) -> dict[str, Any]:
    short = work.of(cell.record)
    return {
        "number": cell.number,
        "label": cell.label,
        "status": cell.record.status,
        "reason": cell.record.reason or None,
        "record": str(cell.path),
        "key": cell.record.key,
        "command": cell.record.command,
        "images_per_second": cell.speed,
        "speed_means_nothing": cell.meaningless or None,
        "speed_up": cell.speed_up,
        "latency_ms": cell.latency,
        "memory_gib": cell.memory_gib,
        "compared_with": cell.compared_with if cell.psnr is not None else None,
        "psnr_db": None if cell.psnr is None or math.isinf(cell.psnr) else cell.psnr,
        "identical": cell.psnr is not None and math.isinf(cell.psnr),
        "ssim": cell.ssim,
        "rms_difference_percent": cell.rms_percent,
        "joules_per_image": cell.joules,
        "price_per_thousand": cell.price,
        **({"best_published": vars(cell.best_published)} if cell.best_published else {}),
        **({"shortcut": {**vars(short), "of_closed": short.share}} if short else {}),
        "scores": other_scores(cell),
        "comparable": cell.record.comparable,
        "baseline": cell.baseline.number if cell.baseline else None,
    }
