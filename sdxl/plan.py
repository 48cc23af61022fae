"""What a command would do, without doing it: `plan=true`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdxl import environment, prompts, quant
from sdxl.bench.sut import batch_size
from sdxl.cli import Outcome
from sdxl.config import ROOT, backend_modules, plain
from sdxl.report.table import Row, print_rows
from sdxl.schema import Config, Mode

LEAST_EARLY_STOPPING = {0.9: 64, 0.99: 459}
"""Queries that LoadGen's early stopping needs at least, by percentile (tolerance 0)."""


def show_plan(config: Config) -> Outcome:
    """Print parameters, operations, memory and a time estimate; measure nothing."""
    count = len(prompts.load(config.dataset, config.limit, config.seed))
    batch = batch_size(config)
    images = _images(config, count)
    rows: list[Row] = [
        ("scenario", f"{config.scenario.name}, {config.mode.value}, rules={config.rules.value}"),
        ("work", f"at least {images:,} images from {count:,} prompts, batches of {batch}"),
    ]
    facts: dict[str, Any] = {"images": images, "batch_size": batch}
    if backend_modules()[config.backend.name].NEEDS_TORCH:
        rows += _model_rows(config, batch, facts)
        rows += _quant_rows(config, facts)
    rows.append(_duration(config, images, facts))
    if config.mode is Mode.accuracy:
        size = 3 * config.model.height * config.model.width
        rows.append(("disk", f"{2 * size * count / 1e9:.2f} GB of accuracy log, and the pictures"))
    print_rows(f"plan: {config.model.name} on {config.backend.name}", rows)
    return {"status": "ok", "plan": facts, "record": None, "exit_code": 0}


def _model_rows(config: Config, batch: int, facts: dict[str, Any]) -> list[Row]:
    from sdxl import cost

    found = cost.count(config, batch)
    weights = sum(found.weight_bytes.values())
    facts.update(
        parameters=found.parameters,
        tflop_per_image=found.image_flop / 1e12,
        weight_bytes=weights,
        activation_bytes=found.peak_bytes,
    )
    precision = plain(config.precision)
    return [
        ("parameters", ", ".join(f"{n} {v:,}" for n, v in found.parameters.items())),
        ("precision", ", ".join(f"{n} {v}" for n, v in precision.items())),
        (
            "per image",
            f"{found.image_flop / 1e12:,.4g} TFLOP = {found.rows_per_image} x {config.model.steps} "
            f"UNet forwards of {found.unet_flop / 1e12:.4g}, VAE {found.decode_flop / 1e12:.4g}, "
            f"{found.rows_per_image} encodings of {found.encode_flop / 1e12:.4g}",
        ),
        (
            "memory",
            f"{weights / 2**30:.2f} GiB weights + {found.peak_bytes / 2**30:.2f} GiB activations "
            f"(eager, counted) + workspaces",
        ),
    ]


def _quant_rows(config: Config, facts: dict[str, Any]) -> list[Row]:
    """What each level of the recipe selects, and what of it the store has."""
    levels = quant.plan(config)
    facts["levels"] = levels
    words = {True: "there", False: "to make", None: "-"}
    return [
        (
            f"{'> ' if row['chosen'] else '  '}level {row['level']:g}",
            f"{row['conv']} conv, {row['linear']} linear, {row['attention']} attention; "
            f"{row['parameter_share']:.1%} of parameters, {row['mac_share']:.1%} of MACs; "
            f"statistics {words[row['statistics']]}, checkpoint {words[row['checkpoint']]}",
        )
        for row in levels
    ]


def _images(config: Config, count: int) -> int:
    """The fewest images LoadGen will ask for."""
    if config.mode is Mode.accuracy:
        return count
    queries = config.scenario.min_query_count or count
    return queries * getattr(config.scenario, "samples_per_query", 1)


def _duration(config: Config, images: int, facts: dict[str, Any]) -> Row:
    """From the newest record of the same work on this machine, else from LoadGen's minimum."""
    least = config.scenario.min_duration_ms / 1e3
    qps = getattr(config.scenario, "target_qps", None)
    if config.scenario.name == "Server" and qps:
        least = max(least, images / qps)
    known = _known_rate(config)
    if known:
        rate, source = known
        seconds = max(least, images / rate)
        facts["seconds"] = round(seconds, 1)
        return ("duration", f"about {seconds:,.0f} s at {rate:.3g} images/s, as in {source}")
    facts["seconds"] = None
    return (
        "duration",
        f"at least {least:,.0f} s; no record of this work on this machine yet to estimate from",
    )


def _known_rate(config: Config) -> tuple[float, str] | None:
    """(images/s, record) of the newest measurement of the same model, precision and backend."""
    same = ("model", "precision", "quant", "backend")
    wanted = {name: plain(config)[name] for name in same}
    here = environment.describe()["cpu"]
    for path in sorted((ROOT / "multirun").glob("*/**/record.json"), reverse=True):
        try:
            record = json.loads(path.read_text())
            rate = record["performance"].get("images_per_second")
            matches = all(record["config"][name] == wanted[name] for name in same)
            if rate and matches and record["environment"]["cpu"] == here:
                return float(rate), str(Path(path).relative_to(ROOT))
        except (OSError, ValueError, KeyError):
            continue
    return None
