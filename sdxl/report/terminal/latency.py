"""The latency table: batches of several sizes on framework, engine and quantized engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdxl.core import records, terminal
from sdxl.core.command import Outcome
from sdxl.core.record import Record

EXPERIMENT = "experiment=latency_table"
HEADINGS = ("batch", "what", "median ms", "mean ms", "x framework", "x floats", "encode",
            "unet", "decode", "rest", "status")  # fmt: skip
PICTURES = 4


@dataclass(frozen=True)
class Timed:
    """One batch size on one kind of execution."""

    batch: int
    backend: str
    quant: str
    record: Record
    path: Path

    @property
    def label(self) -> str:
        """Backend and number format: `ort fp32`, `ort int8`."""
        return f"{self.backend} {self.quant if self.quant != 'none' else self._dtype}"

    @property
    def _dtype(self) -> str:
        return str(self.record.config["precision"]["unet"])

    def latency_ms(self, name: str = "p50") -> float | None:
        """LoadGen's figure of one query, which is one batch."""
        return self.record.performance.latency_ms.get(name)


def show(outcomes: Sequence[Outcome], folder: Path) -> None:
    """At the end of a latency experiment: the table on standard output, files in `folder`."""
    if not any(EXPERIMENT in str(outcome.command) for outcome in outcomes):
        return
    cells = _cells(outcomes)
    if not cells:
        return
    rows, title = table(cells), _title(cells[0].record)
    numbers = {*HEADINGS} - {"what", "status"}
    terminal.console().print(terminal.table(HEADINGS, rows, title, numbers))
    lines = [HEADINGS, ("---",) * len(HEADINGS), *rows]
    text = "\n".join("| " + " | ".join(row) + " |" for row in lines)
    (folder / "latency.md").write_text(f"{title}\n\n{text}\n")
    if picture := _pictures(cells, folder / "latency.png"):
        terminal.tell(f"pictures side by side: {picture}")


def table(cells: list[Timed]) -> list[tuple[str, ...]]:
    """Rows under `HEADINGS`, by batch; speed-ups from medians, stages from the warm-up."""
    rows: list[tuple[str, ...]] = []
    for cell in sorted(cells, key=lambda each: each.batch):
        same = [each for each in cells if each.batch == cell.batch and each.quant == "none"]
        framework = next((each for each in same if each.backend == "torch"), None)
        floats = next((each for each in same if each.backend == cell.backend), None)
        rows.append(
            (
                str(cell.batch),
                cell.label,
                _number(cell.latency_ms()),
                _number(cell.latency_ms("mean")),
                _ratio(framework, cell),
                _ratio(floats, cell) if cell.quant != "none" else "",
                *_stages(cell.record.performance.stage_ms),
                cell.record.status,
            )
        )
    return rows


def _cells(outcomes: Sequence[Outcome]) -> list[Timed]:
    found = []
    for outcome in outcomes:
        if not outcome.record:
            continue
        path = Path(outcome.record)
        record = records.read(path)
        config = record.config
        batch = config["scenario"].get("samples_per_query", 1)
        quant = config["quant"]["format"]
        found.append(Timed(batch, config["backend"]["name"], quant, record, path))
    return found


def _stages(stage_ms: dict[str, float]) -> tuple[str, str, str, str]:
    calls = stage_ms.get("unet_calls")
    spent = stage_ms.get("unet", stage_ms.get("denoise", 0.0))
    unet = f"{calls:.0f} x {spent / calls:,.2f}" if calls else ""
    return (
        _number(stage_ms.get("encode")),
        unet,
        _number(stage_ms.get("decode")),
        _number(stage_ms.get("rest")),
    )


def _number(ms: float | None) -> str:
    return "" if ms is None else f"{ms:,.1f}"


def _ratio(base: Timed | None, cell: Timed) -> str:
    if base is None or not (one := base.latency_ms()) or not (other := cell.latency_ms()):
        return ""
    return f"{one / other:.2f}"


def _title(record: Record) -> str:
    """What one picture takes here: latencies of other steps, samplers or sizes do not compare."""
    model, generator = record.config["model"], record.performance.generator
    return (
        f"{model['name']}, {model['height']} x {model['width']}, {model['steps']} steps of "
        f"{generator.scheduler or 'its scheduler'}, guidance {model['guidance']:g} "
        f"({generator.unet_rows_per_image or 2} UNet rows an image), "
        f"on {generator.device_name or 'cpu'}; ms per batch"
    )


def _pictures(cells: list[Timed], target: Path) -> Path | None:
    """The first pictures of each kind of execution, a row each, from its smallest batch."""
    from sdxl.model.images import sheet

    paths, captions = [], []
    for label in dict.fromkeys(cell.label for cell in cells):
        cell = min((c for c in cells if c.label == label), key=lambda each: each.batch)
        images = cell.record.images[:PICTURES]
        if len(images) == PICTURES:
            paths += [cell.path.parent / image.file for image in images]
            captions += [f"{label}: {image.caption}" for image in images]
    if not paths:
        return None
    sheet(paths, captions, target)
    return target
