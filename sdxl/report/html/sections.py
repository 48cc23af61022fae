"""The tables of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdxl.report.cells import Cell, Cells, other_scores, surroundings
from sdxl.report.choose import Answer
from sdxl.report.html.charts import badge
from sdxl.report.html.markup import Markup, h, join, table
from sdxl.report.html.pictures import worst_layers
from sdxl.report.values import DASH, STATUS_WORD, flatten, milliseconds, number, pick, rate


def results(cells: Sequence[Cell], found: Answer) -> Markup:
    """One line per cell: speed, memory, quality, and the limits it breaks."""
    scores = sorted({name for cell in cells for name in other_scores(cell)})
    has_baseline = any(cell.against_baseline for cell in cells)
    refused = {cell.number: reason for cell, reason in found.refused}
    head: list[Any] = ["Setting", "Status", "images/s", "Speed-up", "p99, ms", "Memory, GiB"]
    head += ["PSNR, dB", "SSIM"] if has_baseline else []
    head += scores + ([h("th", "Limits", scope="col", class_="words")] if refused else [])
    rows = []
    for cell in cells:
        row: list[Any] = [_name(cell, cell is found.best), status(cell), _speed(cell)]
        row += [_doubt(cell, _maybe(cell.speed_up, ".2f", " x")), _doubt(cell, _p99(cell))]
        row += [_maybe(cell.memory_gib, ".2f")]
        if has_baseline:
            same = cell.against_baseline and cell.psnr is None
            row += ["identical" if same else _maybe(cell.psnr, ".1f"), _maybe(cell.ssim, ".4f")]
        row += [_maybe(other_scores(cell).get(name), ".4g") for name in scores]
        row += [h("td", refused.get(cell.number, "kept"), class_="words")] if refused else []
        rows.append(row)
    return table(head, rows, "numbers", "Results")


def verdicts(cells: Sequence[Cell]) -> Markup:
    """LoadGen's own verdict of each cell, and whether the figure may stand beside MLPerf's."""
    names = {"Duration": "result_min_duration_met", "Queries": "result_min_queries_met",
             "Early stopping": "early_stopping_met"}  # fmt: skip
    rows = []
    for cell in cells:
        detail = pick(cell.record.performance, "loadgen.detail", {}) or {}
        checks = [_met(detail.get(key)) for key in names.values()]
        said = detail.get("result_validity") or STATUS_WORD.get(cell.record.status, "")
        comparable = "yes" if cell.record.comparable else "no"
        rows.append([_name(cell), said, *checks, comparable, cell.record.reason or DASH])
    head = ["Setting", "LoadGen says", *names, "Comparable", "Reason"]
    whole = [h("h3", "Verdicts"), table(head, rows, "", "Verdicts")]
    whole += [_gates(cell) for cell in cells if cell.record.verdict]
    reasons = {c.record.comparable_reason for c in cells if c.record.comparable_reason}
    if len(reasons) > 1:
        lines = [
            h("li", badge(c), " ", c.record.comparable_reason)
            for c in cells
            if c.record.comparable_reason
        ]
        whole.append(h("ul", lines, class_="notes"))
    return join(whole)


def _gates(cell: Cell) -> Markup:
    """The cell's verdict gate by gate, folded away."""
    rows = [
        [row["gate"], row["required"], row["measured"], row["margin"],
         h("span", "yes" if row["pass"] else "no", class_="good" if row["pass"] else "bad")]
        for row in cell.record.verdict
    ]  # fmt: skip
    head = ["Gate", "Required", "Measured", "Margin", "Pass"]
    passed = sum(row["pass"] for row in cell.record.verdict)
    title = f" {passed} of {len(rows)} gates of {cell.setting('round')}"
    return h("details", h("summary", badge(cell), title), table(head, rows, "", title.strip()))


def layers(cells: Sequence[Cell]) -> Markup | None:
    """The layers of largest error across settings, tinted by size."""
    having, rows = worst_layers(cells)
    if not rows:
        if any(cell.quantized for cell in cells):
            return join(h("h3", "Worst layers"), h("p", "No layer report.", class_="quiet"))
        return None
    most = max(value for row in rows for value in row[1:] if value is not None) or 1.0

    def shade(value: float | None) -> Markup:
        if value is None:
            return h("td", DASH, title="not quantized here")
        return h("td", f"{value * 100:.2f}", style=f"--heat:{value / most * 38:.0f}%")

    body = [[h("th", h("code", _breakable(row[0])), scope="row"), *map(shade, row[1:])]
            for row in rows]  # fmt: skip
    head: list[Any] = [
        "Layer, relative error in %",
        *[h("span", badge(c), title=c.label) for c in having],
    ]
    return join(
        h("h3", "Worst layers"),
        table(head, body, "numbers heat", "Worst layers"),
        h("p", "Error of the layer's output on the unquantized model's own input, ",
          "so errors do not add up along the network.", class_="quiet"),
    )  # fmt: skip


def power(cells: Sequence[Cell]) -> Markup:
    """Power and energy figures, if the records have any."""
    found = {cell.number: _power_of(cell) for cell in cells}
    names = sorted({name for each in found.values() for name in each})
    if not names:
        return h("p", "Not sampled: these records hold no power figures.", class_="quiet")
    rows = [[_name(c), *(_maybe(found[c.number].get(n), ",.4g") for n in names)] for c in cells]
    return table(["Setting", *names], rows, "numbers", "Power")


def unfinished(found: Cells) -> Markup | None:
    """Failed, timed-out and skipped cells, and files that are no records."""
    if not found.unfinished and not found.unreadable:
        return None
    rows: list[list[Any]] = []
    for cell in found.unfinished:
        trace = cell.record.environment.get("traceback")
        detail = h("details", h("summary", "traceback"), h("pre", str(trace))) if trace else None
        rows.append([_name(cell), status(cell), h("td", cell.record.reason or DASH, detail)])
    for path, reason in found.unreadable:
        rows.append([h("code", _breakable(str(path))), "unreadable", reason])
    title = "Not measured"
    return h("section", h("h2", title), table(["Setting", "Status", "Reason"], rows, "", title))


def environment(found: Cells) -> Markup:
    """Where the cells ran; facts in which they differ first, value by value."""
    facts = [flatten(surroundings(cell)) for cell in found.cells]
    keys = list(dict.fromkeys(key for each in facts for key in each))
    differing, same = [], []
    for key in keys:
        values: dict[str, list[Cell]] = {}
        for cell, each in zip(found.cells, facts, strict=True):
            if cell.measured and each:
                values.setdefault(_text(each.get(key)), []).append(cell)
        if len(values) > 1:
            lines = [h("div", [badge(c) for c in owners], " ", text)
                     for text, owners in values.items()]  # fmt: skip
            differing.append([_fact(key), h("td", lines)])
        elif values:
            same.append([_fact(key), next(iter(values))])
    words = "The measured cells differ in these facts." if differing else (
        "All measured cells ran in the same environment.")  # fmt: skip
    return h(
        "section",
        h("h2", "Environment"),
        h("p", words),
        table(["Fact", "Value, by cell"], differing, "facts", "Differences") if differing else None,
        table(["Fact", "Value"], same, "facts", "Environment") if same else None,
    )


def commands(found: Cells) -> Markup:
    """The line that reproduces each cell, and where its record is."""
    items = [
        h("li", h("p", badge(cell), " ", cell.label), h("pre", cell.record.command),
          h("p", h("code", _breakable(str(cell.path))), class_="quiet"))
        for cell in found.cells
    ]  # fmt: skip
    return h("section", h("h2", "Commands"), h("ul", items, class_="commands"))


def status(cell: Cell) -> Markup:
    """The status as a word; colour only repeats it."""
    return h("span", STATUS_WORD.get(cell.record.status, cell.record.status),
             class_={"ok": "good", "skipped": "quiet"}.get(cell.record.status, "bad"))  # fmt: skip


def _name(cell: Cell, best: bool = False) -> Markup:
    return h("th", badge(cell), " ", cell.label, h("em", " best") if best else None, scope="row")


def _speed(cell: Cell) -> Any:
    text = rate(cell.speed) if cell.speed else DASH
    if len(cell.repeats) > 1:
        text += f" ({min(cell.repeats):,.4g} to {max(cell.repeats):,.4g})"
    return _doubt(cell, text)


def _doubt(cell: Cell, text: str) -> Any:
    """A figure that says nothing about a product is struck out, and says why."""
    return h("s", text, title=cell.meaningless) if cell.meaningless and text != DASH else text


def _p99(cell: Cell) -> str:
    value = cell.latency.get("p99")
    return milliseconds(value) if value else DASH


def _maybe(value: float | None, form: str, unit: str = "") -> str:
    return DASH if value is None else f"{value:{form}}{unit}"


def _met(value: Any) -> str:
    return {True: "met", False: "not met"}.get(value, DASH) if isinstance(value, bool) else DASH


def _power_of(cell: Cell) -> dict[str, float]:
    whole = {"performance": {k: v for k, v in cell.record.performance.items() if k != "loadgen"},
             "resources": cell.record.resources}  # fmt: skip
    flat = ((k.partition(".")[2], number(v)) for k, v in flatten(whole).items())
    words = ("power", "watt", "joule", "energy")
    return {k: v for k, v in flat if v is not None and any(w in k.lower() for w in words)}


def _fact(key: str) -> Markup:
    return h("th", key.replace("packages.", "").replace("_", " "), scope="row")


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "unknown"}[value]
    return str(value)


def _breakable(text: str) -> Markup:
    """Long names may break after a dot or a slash."""
    pieces = text.replace("/", "/\0").replace(".", ".\0").split("\0")
    return join([[piece, h("wbr")] for piece in pieces])
