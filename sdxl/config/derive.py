"""The quantization settings that have an effect, for content keys. Imports no torch.

Two configurations that differ only in what changes nothing (alpha where no Linear is smoothed,
percentiles that end at the same step) have one key, one checkpoint and one measurement.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

from sdxl.config import folder_words, schema
from sdxl.config.content_key import keyed, plain
from sdxl.config.plugins import backend_of
from sdxl.config.schema import QUANT_KEYS, Calls, Config, Format, Mode, Quant, Steps
from sdxl.core import store


def effective(config: Config) -> dict[str, Any]:
    """Canonical settings of `config.quant` with everything left out that has no effect.

    Statistics and the model are not in it; they are parents with keys of their own.
    """
    quant = config.quant
    if quant.format is Format.none:
        return {"format": "none"}
    if quant.tuned:
        plain = dataclasses.replace(config, quant=dataclasses.replace(quant, tuned=None))
        return {**effective(plain), "tuned": quant.tuned}
    found: dict[str, Any] = {
        "format": quant.format.value,
        "level": float(quant.level),
        "include": sorted(set(quant.include)),
        "exclude": sorted(set(quant.exclude)),
    }
    if quant.format is Format.int4_weight_only:
        found["block_size"] = quant.block_size
    if quant.format.weight_only:
        return found
    if quant.format is Format.auto_mixed:
        found["target"], found["prompts"] = quant.target, max(1, quant.report_prompts)
    found["ranges"] = _ranges(config)
    if found["ranges"] != "max":
        found["linear_ranges"] = quant.linear_ranges and takes_linears(quant)
    if smooths(quant):
        found["alpha"] = quant.alpha
        if quant.alpha_only and quant.alpha != 1.0:
            found["alpha_only"] = quant.alpha_only
    elif takes_linears(quant):
        found["smooth"] = False
    if quant.statistics:
        found["statistics"] = quant.statistics
    else:
        found["calibration"] = [quant.calib_dataset, quant.calib_size]
    return found


def calibration_file(quant: Quant) -> str | None:
    """The caption file of `quant.calib_dataset`; None where its captions come with the code."""
    known = {
        "builtin": None,
        "scenes": None,
        "coco_calibration": "store:coco/calibration_captions.tsv",
    }
    return known.get(quant.calib_dataset, quant.calib_dataset)


def drawn_with(config: Config) -> dict[str, Any]:
    """What decides a picture of words and noise, by group, for two machines that must agree."""
    groups = ("model", "precision", "scheduler", "shortcut")
    found = {name: plain(getattr(config, name)) for name in groups}
    found["precision"] = keyed(config.precision)
    return {**found, "quant": effective(config)}


def takes_linears(quant: Quant) -> bool:
    """Whether any Linear may be selected; only level 1 without `include` has none for sure."""
    return quant.level > 1 or bool(quant.include)


def smooths(quant: Quant) -> bool:
    """Whether alpha changes anything."""
    eight_bit = quant.format in (Format.int8, Format.auto_mixed)
    return eight_bit and quant.smooth and takes_linears(quant)


_BETWEEN = (
    "DPMSolverSDEScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "PNDMScheduler",
)
"""Schedulers that call the UNet at timesteps between two steps: statistics tell them apart."""


def _first(config: Config) -> int | float:
    """Timesteps that the percentile takes; a share where only the files or the noise levels say
    of how many.
    """
    quant, steps = config.quant, config.model.steps
    if config.scheduler.name == "dpmpp_sde":
        return int((2 * steps - 1) * quant.percentile)
    if config.scheduler.name == "auto" and quant.percentile < 1:
        own = folder_words.word(config.model, folder_words.SCHEDULER, "_class_name")
        if own in _BETWEEN or (own is None and _elsewhere(config.model)):
            return quant.percentile
    whole = math.isclose(steps * quant.percentile, round(steps * quant.percentile))
    if not whole and _merged(config):
        return quant.percentile
    return int(steps * quant.percentile)


def _merged(config: Config) -> bool:
    """Whether steps may share a timestep: Karras' noise levels lie close together at the end."""
    if config.scheduler.name == "auto":
        found = folder_words.word(config.model, folder_words.SCHEDULER, "use_karras_sigmas")
        return bool(found)
    return config.scheduler.name == "dpmpp_2m_karras"


def _elsewhere(model: schema.Model) -> bool:
    """Whether the model's files are the hub's, and may bring any scheduler."""
    if not isinstance(model, schema.SdxlModel) or model.path == schema.SDXL_BASE:
        return False
    return store.on_hub(model.path)


def _ranges(config: Config) -> str | list[Any]:
    """The rule for input ranges, or `max` for the largest value ever seen."""
    quant, first = config.quant, _first(config)
    across = quant.steps if first > 1 or isinstance(first, float) else Steps.max
    if quant.calls is Calls.max and across is Steps.max and quant.percentile == 1:
        return "max"
    return [quant.calls.value, across.value, first]


DEFAULT_BATCH = 8
"""Images per batch where neither the backend nor the scenario says otherwise."""


def batch_size(config: schema.Config, default: int = DEFAULT_BATCH) -> int:
    """Images per batch: as configured, else what the scenario wants."""
    if config.backend.batch_size:
        return config.backend.batch_size
    if isinstance(config.scenario, schema.SingleStream):
        return 1
    if isinstance(config.scenario, schema.MultiStream):
        return -(-config.scenario.samples_per_query // len(config.backend.devices or [0]))
    return default


def has_baseline(config: Config) -> bool:
    """Whether a cell stands beside another: what it quantizes or leaves out may cost quality."""
    changed = config.quant.format is not Format.none or config.shortcut.name != "none"
    return changed and config.quality.baseline


def baseline_of(config: Config) -> Config:
    """The same configuration without quantization and without a shortcut."""
    baseline = copy.deepcopy(config)
    baseline.quant, baseline.shortcut = schema.Quant("none"), schema.Shortcut("none")
    for name in quantized_only(config):
        fields = {field.name: field for field in dataclasses.fields(baseline.backend)}
        setattr(baseline.backend, name, fields[name].default)
    for name in QUANT_KEYS:
        setattr(baseline, name, None)
    return baseline


def quantized_only(config: Config) -> tuple[str, ...]:
    """The backend's settings that mean nothing to an unquantized model."""
    return backend_of(config).quantized_only


def timed_only(scenario: str) -> tuple[str, ...]:
    """Settings of a timed run that accuracy mode refuses."""
    offline = ("scenario.target_qps", "scenario.min_query_count") if scenario == "Offline" else ()
    return ("cost.per_hour", "quality.keep_images", *offline)


def plain_of(config: Config, mode: Mode) -> Config:
    """The ordinary run of the same work that an audit is judged against."""
    plain = copy.deepcopy(config)
    plain.compliance, plain.mode = None, mode
    if mode is Mode.accuracy:
        plain.quality.keep_images = plain.cost.per_hour = None
        if isinstance(plain.scenario, schema.Offline):
            plain.scenario.target_qps = plain.scenario.min_query_count = None
    return plain
