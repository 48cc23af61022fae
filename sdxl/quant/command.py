"""What `quantize.py` does: the plan, or the checkpoint with its summary."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.table import Table

from sdxl.config import footprint, shorthand
from sdxl.config.schema import Config
from sdxl.core import disk, terminal
from sdxl.core.command import Outcome
from sdxl.core.progress import Progress, Say
from sdxl.core.store import Artifact
from sdxl.model import checkout
from sdxl.quant import build, layer_errors


def run(config: Config, _out_dir: Path, say: Say | None = None) -> Outcome:
    """Quantize as `config` says; the tables go to standard error."""
    shorthand.refuse_unread(config, "quantize.py")
    checkout.use(config.model)
    console = terminal.console(stderr=True)
    disk.store_ready(0 if config.plan else footprint.checkpoint_bytes(config))
    if config.plan:
        rows = build.plan(config)
        console.print(plan_table(config, rows))
        return Outcome(figures={"plan": rows})
    began = time.perf_counter()
    with Progress(f"{config.model.name} {config.quant.name}", say) as progress:
        made = build.prepare(config, progress.report)
        errors = layer_errors.layer_report(config, made, progress.report)
    seconds = round(time.perf_counter() - began, 3)
    console.print(summary_table(config, made))
    if errors:
        console.print(worst_table(errors))
    frontier = made.path / build.FRONTIER
    if frontier.is_file():
        console.print(frontier_table(made.json(build.FRONTIER)))
    return Outcome(
        figures={
            "checkpoint": str(made.path),
            "key": made.manifest.key,
            "statistics": made.manifest.parents,
            "layers": made.manifest.settings["layers"],
            "bytes": _size(made),
            "worst_layer": errors[0] if errors else None,
            "peak_bytes": made.manifest.peak_bytes,
            "seconds": seconds,
        }
    )


def _size(made: Artifact) -> int:
    """Bytes of all its files."""
    return sum(facts["bytes"] for facts in made.manifest.files.values())


def summary_table(config: Config, made: Artifact) -> Table:
    """What the checkpoint is, and what making it took."""
    settings = made.manifest.settings
    facts = [
        *((name, str(value)) for name, value in settings["quant"].items()),
        ("layers", " ".join(f"{n} {kind}" for kind, n in settings["layers"].items() if n)),
        ("checkpoint", f"{_size(made) / 1e6:,.1f} MB, {made.path}"),
        ("statistics", " ".join(made.manifest.parents) or "none needed"),
        (
            "built in",
            f"{made.manifest.seconds:.1f} s, peak {made.manifest.peak_bytes / 1e9:.2f} GB",
        ),
    ]
    title = f"quant={config.quant.name} model={config.model.name}"
    return terminal.table(("what", "value"), facts, title)


def plan_table(config: Config, rows: list[dict[str, Any]]) -> Table:
    """The level table for people."""
    title = f"quant={config.quant.name} model={config.model.name}: what each level quantizes"
    head = ("level", "conv", "linear", "attention", "params", "MACs", "stats", "ckpt")
    words = {True: "there", False: "to make", None: "-"}
    shown = [
        (
            f"{'> ' if row['chosen'] else ''}{row['level']:g}",
            *(str(row[kind]) for kind in ("conv", "linear", "attention")),
            f"{row['parameter_share']:.1%}",
            f"{row['mac_share']:.1%}",
            words[row["statistics"]],
            words[row["checkpoint"]],
        )
        for row in rows
    ]
    return terminal.table(head, shown, title, head)


def worst_table(errors: list[dict[str, Any]]) -> Table:
    """The layers that quantization changes most."""
    worst = errors[: layer_errors.WORST]
    rows = [(row["layer"], row["kind"], f"{row['error']:.2%}") for row in worst]
    title = f"relative output error, worst {len(worst)} of {len(errors)}"
    return terminal.table(("layer", "kind", "error"), rows, title)


def frontier_table(frontier: list[dict[str, Any]]) -> Table:
    """A dozen points between no layer and every layer in 8 bits, and the last one chosen."""
    head = ("layers", "MACs in 8 bits", "combined error", "chosen")
    last = max((at for at, row in enumerate(frontier) if row["chosen"]), default=0)
    every = max(1, len(frontier) // 12)
    rows = [
        (f"{at + 1}", f"{row['mac_share']:.1%}", f"{row['error']:.3f}",
         "this" if at == last else "yes" if row["chosen"] else "")
        for at, row in enumerate(frontier)
        if at % every == 0 or at in (last, len(frontier) - 1)
    ]  # fmt: skip
    return terminal.table(head, rows, "error against work in 8 bits", head)
