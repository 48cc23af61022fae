"""One self-contained HTML page from records: no script, no network, pictures inside."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from sdxl.bench.mlperf import verdict
from sdxl.report import by_prompt, curve, seeds, trainings
from sdxl.report.cells import Cells
from sdxl.report.choose import answer
from sdxl.report.html import views
from sdxl.report.html.pictures import GAIN
from sdxl.report.html.plot import NO_BASELINE
from sdxl.report.limits import Limits
from sdxl.report.terminal import gates
from sdxl.report.text import psnr_text
from sdxl.report.values import DASH, STATUS_WORD, milliseconds

HERE = Path(__file__).parent
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser itself refuses scripts and requests, whatever a record might smuggle in."""


def page(found: Cells, limits: Limits, prompts: int = 4) -> str:
    """The whole document."""
    differing, same = views.environments(found.cells)
    counts = Counter(cell.record.status for cell in found.cells)
    return templates().get_template("page.html").render(
        found=found,
        groups=[
            views.Group(title, cells, answer(cells, limits), prompts)
            for title, cells in found.groups.items()
        ],
        started=min(cell.record.started for cell in (*found.cells, *found.trainings)),
        trainings=trainings.table(found.trainings),
        counts=", ".join(f"{count} {status}" for status, count in counts.items()),
        differing=differing,
        same=same,
        policy=POLICY,
        css=Markup((HERE / "page.css").read_text()),  # noqa: S704
        seeds_note=seeds.NOTE,
        prompts_note=by_prompt.NOTE,
        curve_head=curve.HEAD,
        gain=GAIN,
        no_baseline=NO_BASELINE,
    )  # fmt: skip


@cache
def templates() -> Environment:
    """The page's templates; all that stands in records is escaped."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        "breakable": breakable,
        "form": form,
        "gate_word": lambda row, record: gates.word(row, verdict.asked(record)),
        "key_figures": views.key_figures,
        "met": met,
        "milliseconds": milliseconds,
        "ms": lambda value: milliseconds(value) if value else DASH,
        "psnr": lambda cell: DASH if cell.psnr is None else psnr_text(cell),
        "speed": views.speed,
        "status_word": lambda status: STATUS_WORD.get(status, status),
    }
    return made


def form(value: float | None, spec: str, unit: str = "") -> str:
    """A number as the format asks; a dash where there is none."""
    return DASH if value is None else f"{value:{spec}}{unit}"


def met(value: Any) -> str:
    """LoadGen's answer to one of its questions."""
    return ("met" if value else "not met") if isinstance(value, bool) else DASH


def breakable(text: Any) -> Markup:
    """Long names may break after a dot or a slash."""
    whole = escape(str(text))
    return whole.replace("/", Markup("/<wbr>")).replace(".", Markup(".<wbr>"))
