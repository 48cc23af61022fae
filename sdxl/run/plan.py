"""What a command would do, without doing it: `plan=true`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from sdxl.bench import roofline
from sdxl.bench.mlperf.compliance import SAMPLED
from sdxl.bench.mlperf.rounds import rules_of
from sdxl.config import shortcuts
from sdxl.config.content_key import keyed
from sdxl.config.derive import batch_size
from sdxl.config.plugins import backend_of
from sdxl.config.schema import GROUPS, KEEP_IMAGES, Compliance, Config, Mode, Shortcut
from sdxl.core.command import Outcome, shown
from sdxl.core.errors import ConfigError
from sdxl.core.types import Prompt
from sdxl.model import cost, prompts
from sdxl.model.components import notes_of
from sdxl.model.sources import shapes_source
from sdxl.quality import reference, reference_pictures
from sdxl.quant import build
from sdxl.report.terminal.table import Row, print_rows
from sdxl.run import estimate
from sdxl.run.doctor.preflight import preflight


def show_plan(config: Config, folder: Path | None = None) -> Outcome:
    """Print parameters, operations, memory, a time estimate and what is missing; measure nothing.

    Where something is missing it ends as the run would.
    """
    chosen = prompts.load(config.dataset, config.limit, config.seed)
    count = len(chosen)
    batch = batch_size(config)
    images = estimate.images(config, count)
    rows: list[Row] = [
        ("scenario", f"{config.scenario.name}, {_kind(config)}, rules={config.rules.value}"),
        ("work", f"at least {images:,} images from {count:,} prompts, batches of {batch}"),
    ]
    facts: dict[str, Any] = {"images": images, "batch_size": batch}
    if backend_of(config).needs_torch:
        facts["levels"] = build.plan(config)
        rows += [*_model_rows(config, batch, facts), *_level_rows(facts["levels"])]
    rows.append(_reference(config, chosen, facts))
    rows.append(_duration(config, count, facts))
    if config.find_peak:
        rows.append(("search", "find_peak=true: about 8 such runs, one after the other"))
    rows.append(_disk(config, count, facts))
    rows.append(("round", f"{config.round.value}: {rules_of(config.round, config.seed).status}"))
    lacking = preflight(config, folder)
    rows += [("missing", problem.what) for problem in lacking]
    print_rows(f"plan: {config.model.name} on {config.backend.name}", rows)
    if not lacking:
        return Outcome(figures={"plan": facts})
    facts["missing"] = [problem.what for problem in lacking]
    return dataclasses.replace(shown(ConfigError(lacking)), figures={"plan": facts})


def _kind(config: Config) -> str:
    """What LoadGen is asked for; an audit measures its references first where there are none."""
    return f"audit {config.compliance.value}" if config.compliance else config.mode.value


def _model_rows(config: Config, batch: int, facts: dict[str, Any]) -> list[Row]:
    found = cost.count(config, batch)
    work = roofline.work_of(config, batch, found)
    limits = {p.name: work.images_per_second(p) for p in roofline.PEAKS.values()}
    weights = _held_bytes(config, found, facts["levels"])
    facts.update(
        parameters=found.parameters,
        tflop_per_image=found.image_flop / 1e12,
        weight_bytes=weights,
        activation_bytes=found.peak_bytes,
        roofline_images_per_second=limits,
    )
    precision = keyed(config.precision)
    notes = notes_of(shapes_source(config.model, config.seed))
    return [
        *(("weights", note) for note in notes),
        ("parameters", ", ".join(f"{n} {v:,}" for n, v in found.parameters.items())),
        ("precision", ", ".join(f"{n} {v}" for n, v in precision.items())),
        (
            "per image",
            f"{found.image_flop / 1e12:,.4g} TFLOP = {_forwards(found)}, "
            f"VAE {found.decode_flop / 1e12:.4g}, "
            f"{found.encodings} encodings of {found.encode_flop / 1e12:.4g}",
        ),
        ("roofline", ", ".join(f"{v:.3g} images/s on {n}" for n, v in limits.items())),
        *_shortcut_rows(config, batch, found, facts),
        (
            "memory",
            f"{weights / 2**30:.2f} GiB weights + {found.peak_bytes / 2**30:.2f} GiB activations "
            f"(eager, counted) + workspaces",
        ),
    ]


def _forwards(found: cost.Cost) -> str:
    """An image's UNet forwards, in parts where a shortcut leaves some out."""
    if found.image_flop == found.closed_flop:
        each = f"{found.unet_flop / 1e12:.4g}"
        return f"{found.rows_per_image} x {found.unet_calls} UNet forwards of {each}"
    parts = [f"{s.rows} x {s.calls} {s.kind} of {s.row_flop / 1e12:.4g}" for s in found.kinds]
    whole = f"instead of {found.closed_flop / 1e12:,.4g} TFLOP"
    return f"{' + '.join(parts)} (UNet forwards, {found.unet_rows} rows, {whole})"


def _shortcut_rows(
    config: Config, batch: int, counted: cost.Cost, facts: dict[str, Any]
) -> list[Row]:
    """The roofline's limits under each shortcut, beside those of closed rules."""
    peaks = roofline.PEAKS.values()
    able = [name for name, node in GROUPS["shortcut"].items() if _able(config, node(name))]
    works = roofline.works_of(config, batch, counted, able).items()
    found = {name: {p.name: work.images_per_second(p) for p in peaks} for name, work in works}
    facts["shortcuts"] = found
    closed = found["none"]
    return [
        (
            f"{'> ' if name == config.shortcut.name else '  '}shortcut={name}",
            ", ".join(
                f"{rate:.3g} images/s on {device} ({rate / closed[device]:.2f} x)"
                for device, rate in rates.items()
            ),
        )
        for name, rates in found.items()
    ]


def _able(config: Config, shortcut: Shortcut) -> bool:
    return {*shortcuts.parts_of(shortcut)} <= {*backend_of(config).parts}


def _held_bytes(config: Config, found: cost.Cost, levels: list[dict[str, Any]]) -> int:
    """Of all weights as they are held: a byte for each of a layer that computes in 8 bits."""
    held = sum(found.weight_bytes.values())
    if getattr(config.backend, "execution", "") != "real":
        return held
    share = next(row["parameter_share"] for row in levels if row["chosen"])
    return round(held - share * (found.weight_bytes["unet"] - found.parameters["unet"]))


def _level_rows(levels: list[dict[str, Any]]) -> list[Row]:
    """What each level of the recipe selects, and what of it the store has."""
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


def _reference(config: Config, prompts: list[Prompt], facts: dict[str, Any]) -> Row:
    """Pictures of the same model in torch fp32 that the cell is compared with, and their price."""
    if reason := reference.absent(config):
        facts["reference"] = {"absent": reason}
        return ("reference", f"none: {reason}")
    wanted = reference.chosen(config, prompts)
    left = reference_pictures.missing(config, wanted)
    found: dict[str, Any] = {"pictures": len(wanted), "missing": left, "seconds": None}
    facts["reference"] = found
    said = f"{len(wanted)} pictures of the model in torch fp32, " + (
        f"{left} to draw first, once" if left else "all there"
    )
    if left:
        drawing = reference.drawing(config)
        said += f": {left * cost.count(drawing, 1).image_flop / 1e12:,.4g} TFLOP"
        if known := estimate.known(drawing):
            found["seconds"] = round(left / known.rate, 1)
            said += f", about {left / known.rate:,.0f} s here"
    return ("reference", said)


def _disk(config: Config, prompt_count: int, facts: dict[str, Any]) -> Row:
    """Pictures that are kept, and LoadGen's log, two characters for each of their bytes."""
    picture = 3 * config.model.height * config.model.width
    accuracy = config.mode is Mode.accuracy
    kept = (
        prompt_count if accuracy else min(config.quality.keep_images or KEEP_IMAGES, prompt_count)
    )
    logged = prompt_count if accuracy and config.submission else 0
    if config.compliance is Compliance.test01:
        logged = SAMPLED
    facts["disk_bytes"] = picture * (kept + 2 * logged)
    log = f", {2 * picture * logged / 1e9:.2f} GB of accuracy log" if logged else ""
    return ("disk", f"at most {picture * kept / 1e9:.2f} GB of pictures{log}")


def _duration(config: Config, prompt_count: int, facts: dict[str, Any]) -> Row:
    """From the newest record of the same work on this machine, else LoadGen's minimum."""
    found = estimate.known(config)
    facts["seconds"] = None
    if not found:
        least = estimate.least_seconds(config, prompt_count)
        text = f"at least {least:,.0f} s; no record of this work on this machine to estimate from"
        return ("duration", text)
    seconds = estimate.seconds(config, prompt_count) or 0.0
    facts["seconds"] = round(seconds, 1)
    text = f"about {seconds:,.0f} s at {found.rate:.3g} images/s, as in {found.source}"
    return ("duration", text)
