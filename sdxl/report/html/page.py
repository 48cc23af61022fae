"""One self-contained HTML page from records: no script, no network, pictures inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdxl.report import seeds
from sdxl.report.cells import Cell, Cells
from sdxl.report.choose import Answer, Limits, answer, front
from sdxl.report.html import sections
from sdxl.report.html.charts import Point, bars, scatter, strips
from sdxl.report.html.markup import Markup, h, join, table
from sdxl.report.html.pictures import grid
from sdxl.report.values import rate

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser itself refuses scripts and requests, whatever a record might smuggle in."""
SPEED, LOSS = "images/s", "RMS difference to the baseline, % of full scale"


def page(found: Cells, limits: Limits, prompts: int = 4) -> str:
    """The whole document."""
    groups = found.groups
    answers = {title: answer(cells, limits) for title, cells in groups.items()}
    body = join(
        _header(found, answers),
        [_group(title, cells, answers[title], prompts) for title, cells in groups.items()],
        sections.unfinished(found),
        sections.environment(found),
        sections.commands(found),
        h("footer", f"{len(found.cells)} records, read without running anything. ",
          "Made by ", h("code", "python -m sdxl report"), "."),
    )  # fmt: skip
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", http_equiv="Content-Security-Policy", content=POLICY),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("title", f"Which setting should ship? {len(found.cells)} cells"),
        h("style", Markup(Path(__file__).with_name("page.css").read_text())),
    )
    return f"<!doctype html>\n{h('html', head, h('body', h('main', body)), lang='en')}\n"


def _header(found: Cells, answers: dict[str, Answer]) -> Markup:
    starts = sorted(str(cell.record.started) for cell in found.cells)
    counts: dict[str, int] = {}
    for cell in found.cells:
        counts[cell.record.status] = counts.get(cell.record.status, 0) + 1
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    eyebrow = f"{starts[0][:10]} · {len(found.cells)} cells: {said}"
    blocks = [_answer(title, each, len(answers) > 1) for title, each in answers.items()]
    if not blocks:
        blocks = [h("p", "No answer: no cell was measured.", class_="answer")]
    return h(
        "header", h("p", eyebrow, class_="eyebrow"), h("h1", "Which setting should ship?"), blocks
    )


def _answer(title: str, found: Answer, several: bool) -> Markup:
    best = found.best
    return h(
        "div",
        h("p", title, class_="which") if several else None,
        h("p", found.sentence, class_="answer"),
        _figures(best) if best and best.label in found.sentence else None,
        h("ul", [h("li", note) for note in found.notes], class_="notes") if found.notes else None,
        class_="verdict",
    )


def _figures(cell: Cell) -> Markup:
    """The best cell's numbers, large."""
    facts: list[tuple[str, str, str]] = []
    if cell.speed:
        facts.append((rate(cell.speed), "images/s", "throughput"))
    if cell.speed_up:
        facts.append((f"{cell.speed_up:.2f}", "x", "over its unquantized baseline"))
    if cell.latency.get("p99") and cell.setting("scenario.name") != "Offline":
        facts.append((f"{cell.latency['p99']:,.4g}", "ms", "99th percentile"))
    if cell.psnr:
        facts.append((f"{cell.psnr:.1f}", "dB", "PSNR to the baseline"))
    if cell.memory_gib:
        facts.append((f"{cell.memory_gib:.2f}", "GiB", f"peak memory, {cell.memory_kind}"))
    return h(
        "dl",
        [
            h("div", h("dt", name), h("dd", value, h("small", " ", unit)))
            for value, unit, name in facts
        ],
        class_="figures",
    )


def _group(title: str, cells: Sequence[Cell], found: Answer, prompts: int) -> Markup:
    return h(
        "section",
        h("h2", title),
        _plot(cells),
        sections.results(cells, found),
        _seeds(cells),
        _speed_ups(cells),
        _latencies(cells),
        h("h3", "Power"),
        sections.power(cells),
        h("h3", "Pictures"),
        grid(cells, prompts),
        sections.layers(cells),
        sections.verdicts(cells),
    )


def _seeds(cells: Sequence[Cell]) -> list[Any]:
    """Scores over seeds, where a setting has several."""
    head, rows = seeds.table(cells)
    if not rows:
        return []
    named = [[row[1], row[0], *row[2:]] for row in rows]
    head = ["Setting", "Row", "Seeds", *head[3:]]
    return [h("h3", "Over seeds"), h("p", seeds.NOTE), table(head, named, "numbers", "Over seeds")]


def _plot(cells: Sequence[Cell]) -> Markup:
    """Loss against speed; without a quality axis latency against speed; else words."""
    timed = [cell for cell in cells if cell.speed]
    judged = [cell for cell in timed if cell.loss is not None]
    if any(cell.quantized for cell in judged):
        leading = {cell.number for cell in front(timed)}
        points = [_point(c, c.loss or 0.0, c.number in leading) for c in judged]
        drawing = scatter(points, f"{SPEED} →", f"{LOSS}", _summary(points, "quality loss"))
        title, missing = "Quality loss against speed", [c for c in timed if c.loss is None]
    else:
        points = [_point(c, c.latency["p99"], False) for c in timed if c.latency.get("p99")]
        if len(points) < 2:
            return h("p", "No quality axis: no cell was compared with an unquantized baseline.",
                     class_="quiet")  # fmt: skip
        drawing = scatter(points, f"{SPEED} →", "p99 latency, ms", _summary(points, "latency"))
        title, missing = "Latency against speed", []
    words = [_legend(points)]
    if title.startswith("Latency"):
        words.append("No quality axis: no cell was compared with an unquantized baseline.")
    if missing:
        numbers = ", ".join(str(cell.number) for cell in missing)
        words.append(f"Not drawn, since not compared with a baseline: {numbers}.")
    caption = h("figcaption", join([h("span", word) for word in words]))
    return h("figure", h("h3", title), drawing, caption, class_="with-plot")


def _point(cell: Cell, y: float, leading: bool) -> Point:
    text = f"{cell.number} {cell.label}: {rate(cell.speed or 0.0)} images/s"
    text += f", PSNR {cell.psnr:.1f} dB" if cell.psnr else ""
    text += f", {cell.memory_gib:.2f} GiB" if cell.memory_gib else ""
    text += f" ({cell.meaningless})" if cell.meaningless else ""
    return Point(cell, cell.speed or 0.0, y, text, leading)


def _summary(points: Sequence[Point], what: str) -> str:
    return f"{what} against images per second of {len(points)} cells; the table has the numbers"


def _legend(points: Sequence[Point]) -> str:
    parts = ["Lower right is better; numbers are those of the table."]
    sizes = [p.cell.memory_gib for p in points if p.cell.memory_gib]
    if sizes:
        parts.append(f"Area is peak memory, at most {max(sizes):.2f} GiB.")
    if any(not p.cell.quantized for p in points):
        parts.append("Squares are unquantized: no loss by definition.")
    if any(p.hollow for p in points):
        parts.append("Dashed: simulated or without a model, so the speed means nothing.")
    if sum(p.leading for p in points) > 1:
        parts.append("The stairs are the Pareto front.")
    return " ".join(parts)


def _speed_ups(cells: Sequence[Cell]) -> list[Any]:
    rows = [(c, c.speed_up, f"{c.speed_up:.2f} x") for c in cells if c.speed_up]
    if not rows:
        return []
    title = h("h3", "Speed-up against the unquantized baseline")
    doubtful = [cell for cell, _, _ in rows if cell.meaningless]
    if len(doubtful) == len(rows):
        return [title, h("p", "Nothing to draw: the quantized arithmetic of every cell was ",
                         "simulated, so its speed means nothing.", class_="quiet")]  # fmt: skip
    words = "The line is the unquantized baseline: same batch, same machine, same sweep."
    if doubtful:
        words += " Dashed: the arithmetic was simulated, so the length means nothing."
    return [title, bars(rows, 1.0), h("p", words, class_="quiet")]


def _latencies(cells: Sequence[Cell]) -> list[Any]:
    timed = [cell for cell in cells if cell.latency]
    if not timed:
        return []
    title = h("h3", "Latency")
    if all(cell.latency.get("min") == cell.latency.get("max") for cell in timed):
        words = "No distribution: everything ended in one batch, so every percentile is the same."
        return [title, h("p", words, class_="quiet")]
    words = "Line: least to most; box: p50 to p99, with a tick at p90. Figures: p50 / p99."
    if timed[0].setting("scenario.name") == "Offline":
        words += (
            " Offline issues everything at once and counts from the start of the test, "
            "so this shows how the queue drains, not the time of one picture."
        )
    return [title, strips(timed), h("p", words, class_="quiet")]
