"""A record as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdxl.core import terminal
from sdxl.core.command import Outcome
from sdxl.core.record import Performance, Record
from sdxl.report import curve, work
from sdxl.report.cell import BASELINE, Cell
from sdxl.report.terminal import gates, profile

Row = tuple[str, str]


def show(record: Record, out_dir: str) -> None:
    """Print what was measured, the verdict, and where to look."""
    print_rows(
        _title(record, out_dir),
        [
            *_verdict(record),
            *_speed(record),
            *_quality(record),
            *_profile(record),
            *_work(record),
            *_where(record, out_dir),
        ],
    )
    curve.show(record)
    if gates.wanted(record):
        gates.show(f"verdict by the rules of {record.config['round']}", record.verdict)


def _title(record: Record, out_dir: str) -> str:
    """What was measured, and for what: a baseline's table is not taken for the cell's."""
    config = record.config
    title = (
        f"{config['model']['name']} on {config['backend']['name']}, {config['scenario']['name']}"
    )
    quant = config["quant"]
    if quant["format"] != "none":
        title += f", {quant['format']} level {quant['level']:g}"
    title += f", shortcut {short.shortcut}" if (short := work.of(record)) else ""
    return f"the unquantized baseline: {title}" if Path(out_dir).name == BASELINE else title


def show_cells(outcomes: Sequence[Outcome]) -> None:
    """The cells of a multirun, one line each, on standard output."""
    spoken = [(outcome.command or "").split()[2:] for outcome in outcomes]
    shared = set.intersection(*(set(words) for words in spoken)) if len(spoken) > 1 else set()
    rows = []
    for words, outcome in zip(spoken, outcomes, strict=True):
        found = outcome.figures
        rows.append(
            (
                " ".join(word for word in words if word not in shared) or "-",
                outcome.status,
                *(doubted(found, name) for name in ("images_per_second", "speed_up")),
                three(found.get("psnr_db")),
                outcome.reason or "",
            )
        )
    right = ("images/s", "speed-up", "PSNR dB")
    head = ("cell", "status", *right, "reason")
    console = terminal.console()
    console.print(terminal.table(head, rows, f"{len(outcomes)} cells", right))
    if any(outcome.figures.get("speed_means_nothing") for outcome in outcomes):
        console.print("(in brackets: the arithmetic was simulated, the speed means nothing)")


def doubted(figures: Mapping[str, Any], name: str) -> str:
    """A figure of speed with three digits, in brackets where it means nothing."""
    text = three(figures.get(name))
    return f"({text})" if text and figures.get("speed_means_nothing") else text


def three(value: float | None) -> str:
    """A figure with three digits; nothing where there is none."""
    return "" if value is None else f"{value:.3f}"


def print_rows(title: str, rows: list[Row]) -> None:
    """Two columns on standard output; paths are never broken."""
    width = max(60, len(title), *(len(value) + len(name) + 8 for name, value in rows))
    made = terminal.table((), rows, title)
    made.min_width = len(title)
    terminal.console(width=width).print(made)


def _verdict(record: Record) -> list[Row]:
    rows = [("status", record.status.upper() if record.status != "ok" else "ok (VALID)")]
    of_loadgen = record.config["mode"] == "performance" and not record.performance.curve
    if not of_loadgen and record.status == "ok":
        rows = [("status", "ok")]
    if record.reason:
        rows.append(("reason", record.reason))
    if record.status in ("ok", "invalid"):
        rows.append(
            ("comparable", "yes" if record.comparable else f"no: {record.comparable_reason}")
        )
    if gates.wanted(record):
        rows.append(("verdict", gates.summary(record)))
    rows += [("from outside", each) for each in record.environment.outside]
    return rows


def _speed(record: Record) -> list[Row]:
    found = record.performance
    rows: list[Row] = []
    if found.images_per_second:
        text = f"{found.images_per_second:.3f} images/s"
        text += " (simulated: means nothing)" if found.generator.simulated else ""
        if tera := found.tflops:
            text += f" = {tera:.1f} TFLOP/s" if tera >= 1 else f" = {tera * 1e3:.1f} GFLOP/s"
        rows.append(("throughput", text))
    if limit := found.roofline:
        text = f"{limit.share:.1%} of {limit.images_per_second:.4g} images/s"
        rows.append(("roofline", f"{text}: {limit.device}"))
    if short := work.of(record):
        rows.append(("shortcut", short.sentence))
    if latency := found.latency_ms:
        rows.append(("latency", ", ".join(f"{n} {v:,.1f} ms" for n, v in latency.items())))
    if peak := found.peak:
        text = f"{peak.qps:.4g} queries/s keep the limit, {peak.fails_at:.4g} do not"
        rows.append(("peak", f"{text}; {len(peak.probes)} probes"))
    rows += _costs(record)
    if found.stage_ms:
        drawn = min(found.batch_size or 0, found.prompts or 0)
        rows.append(("stages", _stages(found.stage_ms, drawn)))
    if found.repeats:
        each = " ".join(f"{rate:.3f}" for rate in found.repeats)
        rows.append(("repeats", f"{each} images/s; the median counts, spread {found.spread:.1%}"))
    if found.speed_up:
        rows.append(("speed-up", _speed_up(found)))
    if found.generator.execution:
        rows.append(("8-bit layers", _kernels(found.generator.execution)))
    if found.unit == "ms":
        value = found.value
        text = "too few queries for an estimate" if value is None else f"{value:,.4g} ms"
        rows.append((str(found.metric), text))
    return rows


def _costs(record: Record) -> list[Row]:
    """Energy by the machine's own counters, and the price at `cost.per_hour`."""
    cell, spent = Cell(Path(), record), record.resources.energy
    rows: list[Row] = []
    if cell.joules is not None:
        watts = f", {spent.watts:,.1f} W" if spent.watts else ""
        rows.append(("energy", f"{cell.joules:,.4g} J an image{watts}; {spent.source}"))
    if cell.price is not None:
        rows.append(("price", f"{cell.price:,.4g} for 1,000 images at cost.per_hour"))
    return rows


def _speed_up(found: Performance) -> str:
    text = f"{found.speed_up:.3f} x the unquantized {found.baseline_images_per_second:.3f} images/s"
    if found.generator.simulated:
        text += " (simulated: 8-bit numbers, wider arithmetic; its speed means nothing)"
    return text


def _kernels(executed: dict[str, Any]) -> str:
    """Which kernels compute how many 8-bit layers, and why others do not run in 8 bits."""
    found = [", ".join(f"{count} by {name}" for name, count in executed["kernels"].items())]
    for reason, count in executed["fallbacks"].items():
        found.append(f"{count} simulated: {reason}")
    for reason, count in executed.get("wide", {}).items():
        found.append(f"{count} not in 8 bits: {reason}")
    return "; ".join(filter(None, found))


def _stages(stage_ms: dict[str, float], batch: int) -> str:
    """Milliseconds of each stage in the warm-up's fastest batch."""
    calls = stage_ms.get("unet_calls", 0)
    parts = []
    for name, ms in stage_ms.items():
        if name in ("unet", "denoise") and calls:
            parts.append(f"{name} {calls:.0f} x {ms / calls:,.1f}")
        elif name != "unet_calls":
            parts.append(f"{name} {ms:,.1f}")
    return f"{', '.join(parts)} ms in a warm-up batch of {batch}"


def _quality(record: Record) -> list[Row]:
    rows: list[Row] = []
    if baseline := record.quality.baseline:
        near = baseline.perceptual_scenes
        own = f", perceptual_scenes {near:.4f} (our own, not LPIPS)" if near is not None else ""
        psnr = "identical" if baseline.psnr_db is None else f"PSNR {baseline.psnr_db:.1f} dB"
        rows.append(
            (
                "against the baseline",
                f"{psnr}, SSIM {baseline.ssim:.4f}, "
                f"largest deviation {baseline.max_deviation}/255 "
                f"over {baseline.images} pictures{own}",
            )
        )
    if scores := record.quality.scores:
        text = ", ".join(f"{name} {value:,.5g}" for name, value in scores.metrics.items())
        text = f"{text} over {scores.images} pictures" if text else "nothing could be scored"
        rows.append((f"quality={scores.by}", text))
        for gate in scores.gates:
            said = "passed" if gate.passed else "FAILED"
            text = f"{said}: {gate.gate} {gate.measured}, {gate.required}"
            rows.append((f"{gate.scope} gate", text))
        for names, reason in scores.unscored.items():
            rows.append(("", f"no {names}: {reason}"))
        if scores.metrics and not scores.comparable:
            rows.append(("", f"not comparable: {scores.comparable_reason}"))
    if errors := record.quality.layer_errors:
        worst = ", ".join(f"{row.layer} {row.error:.1%}" for row in errors[:3])
        rows.append((f"worst of {len(errors)} layers", worst))
    return rows


def _profile(record: Record) -> list[Row]:
    found = record.performance.profile
    return profile.rows(found) if found else []


def _work(record: Record) -> list[Row]:
    found, rows = record.performance, []
    if found.batch_size:
        counts = found.counts
        rows.append(
            (
                "work",
                f"{counts.done} images in {counts.batches} batches of at most "
                f"{found.batch_size}, {found.prompts} prompts"
                + (f", {counts.padded} more to fill prepared sizes" if counts.padded else ""),
            )
        )
    memory = record.resources
    if memory.peak_rss_bytes:
        text = f"{memory.peak_rss_bytes / 2**30:.2f} GiB resident"
        if memory.cuda_peak_bytes:
            text += f", {memory.cuda_peak_bytes / 2**30:.2f} GiB on the GPU"
        rows.append(("peak memory", text))
    for warning in [*found.generator.warnings, *memory.probe.warnings]:
        rows.append(("in doubt", warning))
    if record.durations:
        parts = ", ".join(f"{n.removesuffix('_s')} {v:.1f} s" for n, v in record.durations.items())
        rows.append(("time", parts))
    return rows


def _where(record: Record, out_dir: str) -> list[Row]:
    rows: list[Row] = []
    if record.images:
        rows.append(("pictures", f"{out_dir}/images.png ({len(record.images)} in images/)"))
    rows.append(("record", f"{out_dir}/record.json"))
    return rows
