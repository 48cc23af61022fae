"""A record as a table in the terminal."""

from __future__ import annotations

import sys

from sdxl.types import Record

Row = tuple[str, str]


def show(record: Record, out_dir: str) -> None:
    """Print what was measured, the verdict, and where to look."""
    print_rows(
        f"{record.config['model']['name']} on {record.config['backend']['name']}, "
        f"{record.config['scenario']['name']}",
        [*_verdict(record), *_speed(record), *_work(record), *_where(record, out_dir)],
    )


def print_rows(title: str, rows: list[Row]) -> None:
    """Two columns on standard output; paths are never broken."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, show_header=False, title_justify="left", title_style="bold")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    width = None if sys.stdout.isatty() else max(60, *(len(v) + len(n) + 8 for n, v in rows))
    Console(width=width, highlight=False).print(table)


def _verdict(record: Record) -> list[Row]:
    rows = [("status", record.status.upper() if record.status != "ok" else "ok (VALID)")]
    if record.config["mode"] == "accuracy" and record.status == "ok":
        rows = [("status", "ok")]
    if record.reason:
        rows.append(("reason", record.reason))
    if record.status in ("ok", "invalid"):
        rows.append(
            ("comparable", "yes" if record.comparable else f"no: {record.comparable_reason}")
        )
    return rows


def _speed(record: Record) -> list[Row]:
    found = record.performance
    rows: list[Row] = []
    if found.get("images_per_second"):
        text = f"{found['images_per_second']:.3f} images/s"
        if found.get("tflops"):
            tera = found["tflops"]
            text += f" = {tera:.1f} TFLOP/s" if tera >= 1 else f" = {tera * 1e3:.1f} GFLOP/s"
        rows.append(("throughput", text))
    latency = found.get("latency_ms") or {}
    if latency:
        rows.append(("latency", ", ".join(f"{n} {v:,.1f} ms" for n, v in latency.items())))
    if found.get("unit") == "ms":
        rows.append((found["metric"], f"{found['value']:,.4g} {found['unit']}"))
    return rows


def _work(record: Record) -> list[Row]:
    found, rows = record.performance, []
    if found.get("batch_size"):
        counts = found["counts"]
        rows.append(
            (
                "work",
                f"{counts['done']} images in {counts['batches']} batches of at most "
                f"{found['batch_size']}, {found['prompts']} prompts",
            )
        )
    memory = record.resources.get("peak_rss_bytes")
    if memory:
        text = f"{memory / 2**30:.2f} GiB resident"
        if record.resources.get("cuda_peak_bytes"):
            text += f", {record.resources['cuda_peak_bytes'] / 2**30:.2f} GiB on the GPU"
        rows.append(("peak memory", text))
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
