"""The report without a browser: terminal table, Markdown for a pull request, JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sdxl.core import terminal
from sdxl.report import seeds
from sdxl.report.cells import Cell, Cells, other_scores
from sdxl.report.choose import Limits, answer, front, machine
from sdxl.report.values import DASH, STATUS_WORD, milliseconds, rate

Table = tuple[list[str], list[list[str]]]


def show(found: Cells, limits: Limits) -> None:
    """The answer and one table per group of comparable cells, on standard output."""
    console = terminal.console(width=140)
    for title, cells in found.groups.items():
        said = answer(cells, limits)
        head, rows = results(cells, limits)
        right = {*head} - {"setting", "status", "limits"}
        console.print(said.sentence, style="bold")
        console.print(terminal.table(head, rows, title, right))
        over, spreads = seeds.table(cells)
        if spreads:
            console.print(terminal.table(over, spreads, seeds.NOTE))
        for note in said.notes:
            console.print(f"  {note}")
        console.print()
    for name, reason in unfinished(found):
        console.print(f"not measured: {name}: {reason}")


def markdown(found: Cells, limits: Limits) -> str:
    """The same as GitHub Markdown; what stands in records cannot become markup."""
    parts = ["## Which setting should ship?"]
    for title, cells in found.groups.items():
        said = answer(cells, limits)
        head, rows = results(cells, limits)
        parts += [f"**{escape(title)}.** {escape(said.sentence)}"]
        parts.append("\n".join([_line(head), _line(["---"] * len(head)), *map(_line, rows)]))
        over, spreads = seeds.table(cells)
        if spreads:
            table = [_line(over), _line(["---"] * len(over)), *map(_line, spreads)]
            parts += [escape(seeds.NOTE), "\n".join(table)]
        parts.append("\n".join(f"- {escape(note)}" for note in said.notes))
        parts.append(f"Measured on {escape(', '.join(sorted({machine(c) for c in cells})))}.")
    if missing := unfinished(found):
        lines = "\n".join(f"- {escape(name)}: {escape(reason)}" for name, reason in missing)
        parts.append(f"Not measured:\n\n{lines}")
    lines = "\n".join(f"{cell.number}. {cell.record.command}" for cell in found.cells)
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
                "pareto": [cell.number for cell in front(cells)],
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
        "unreadable": [{"path": str(path), "reason": why} for path, why in found.unreadable],
        "exit_code": 0,
    }


def results(cells: Sequence[Cell], limits: Limits) -> Table:
    """(head, rows) of one group; a speed that means nothing stands in brackets."""
    scores = sorted({name for cell in cells for name in other_scores(cell)})
    compared = any(cell.against_baseline for cell in cells)
    head = ["#", "setting", "status", "images/s", "speed-up", "p99 ms", "GiB"]
    head += ["PSNR dB", "SSIM"] if compared else []
    head += scores + (["limits"] if limits else [])
    rows = []
    for cell in cells:
        p99 = cell.latency.get("p99")
        row = [str(cell.number), cell.label, STATUS_WORD.get(cell.record.status, DASH)]
        row += [_doubt(cell, rate(cell.speed) if cell.speed else DASH)]
        row += [_doubt(cell, _form(cell.speed_up, ".2f"))]
        row += [_doubt(cell, milliseconds(p99) if p99 else DASH), _form(cell.memory_gib, ".2f")]
        if compared:
            same = cell.against_baseline and cell.psnr is None
            row += ["identical" if same else _form(cell.psnr, ".1f"), _form(cell.ssim, ".4f")]
        row += [_form(other_scores(cell).get(name), ".4g") for name in scores]
        row += ["; ".join(limits.broken(cell)) or "kept"] if limits else []
        rows.append(row)
    return head, rows


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
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


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
        "psnr_db": cell.psnr,
        "ssim": cell.ssim,
        "rms_difference_percent": cell.loss,
        "scores": other_scores(cell),
        "comparable": cell.record.comparable,
        "baseline": cell.baseline.number if cell.baseline else None,
    }
