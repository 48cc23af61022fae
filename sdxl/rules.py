"""The rules a configuration must keep, beyond its types. No input or output happens here."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from sdxl import schema
from sdxl.errors import Problem
from sdxl.schema import Calls, Config, Device, DType, Format, Mode, Noise, Rules

LEVELS = (1.0, 2.0, 2.5, 3.0, 4.0)

MLPERF_STEPS = 20
MLPERF_GUIDANCE = 8.0
MLPERF_NEGATIVE_PROMPT = "normal quality, low quality, worst quality, low res, blurry, nsfw, nude"
"""The benchmark's fixed work per image (MLCommons text_to_image reference)."""

WEIGHT_ONLY = (Format.int8_weight_only, Format.int4_weight_only)


def problems_of(config: Config) -> list[Problem]:
    """All broken rules of `config`, in the order of its groups."""
    checks: list[Callable[[Config], Iterator[Problem]]] = [
        _finite,
        _numbers,
        _model,
        _division,
        _quant,
        _scenario,
        _ignored,
    ]
    return [problem for check in checks for problem in check(config)]


def _finite(node: Any, prefix: str = "") -> Iterator[Problem]:
    """`nan` passes every comparison below, and neither it nor `inf` can be written as JSON."""
    for field in dataclasses.fields(node):
        name, value = f"{prefix}{field.name}", getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _finite(value, f"{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            yield Problem(f"`{name}` must be a finite number", f"{value}", "a number")


def _numbers(c: Config) -> Iterator[Problem]:
    s, m = c.scenario, c.model
    at_least: list[tuple[str, float | None, float]] = [
        ("limit", c.limit, 1),
        ("repeat", c.repeat, 1),
        ("timeout_s", c.timeout_s, 1),
        ("seed", c.seed, 0),
        ("model.steps", m.steps, 1),
        ("model.guidance", m.guidance, 0),
        ("backend.batch_size", c.backend.batch_size, 1),
        ("scenario.min_duration_ms", s.min_duration_ms, 0),
        ("scenario.min_query_count", s.min_query_count, 1),
        ("scenario.performance_sample_count", s.performance_sample_count, 1),
        ("scenario.warmup_batches", s.warmup_batches, 1),
        ("scenario.samples_per_query", getattr(s, "samples_per_query", None), 1),
        ("scenario.max_wait_ms", getattr(s, "max_wait_ms", None), 0),
        ("quality.keep_images", c.quality.keep_images, 1),
    ]
    for key, number, least in at_least:
        if number is not None and number < least:
            yield Problem(f"`{key}` is too small", f"{number:g}", f"at least {least:g}")
    if c.seed >= 1 << 32:
        yield Problem("`seed` is too large", str(c.seed), f"less than {1 << 32}")
    positive = ["target_qps", "warmup_qps_share", "target_latency_ms", "startup_s", "stall_s"]
    for name in positive:
        number = getattr(s, name, None)
        if number is not None and number <= 0:
            yield Problem(f"`scenario.{name}` must be positive", f"{number:g}", "more than 0")
    share = getattr(s, "target_latency_percentile", None)
    if share is not None and not 0 < share < 1:
        yield Problem(
            "`scenario.target_latency_percentile` is a fraction", f"{share:g}", "between 0 and 1"
        )


def _model(c: Config) -> Iterator[Problem]:
    for name in ("height", "width"):
        pixels = getattr(c.model, name)
        if pixels <= 0 or pixels % 32:
            yield Problem(
                f"`model.{name}` does not fit the UNet", f"{pixels} pixels", "a multiple of 32"
            )
    if c.model.device is Device.meta and not c.plan:
        yield Problem(
            "the meta device holds no numbers", "model.device=meta", "plan=true", "plan=true"
        )
    if c.model.latents and c.model.noise is Noise.per_prompt:
        yield Problem(
            "`model.latents` would be ignored: noise is drawn for each prompt",
            "model.noise=per_prompt",
            "model.noise=shared",
        )
    if isinstance(c.model, schema.SdxlModel) and c.model.lora_scale != 1 and not c.model.lora:
        yield Problem(
            "`model.lora_scale` would be ignored", "model.lora=null", "model.lora=FILE.safetensors"
        )
    if isinstance(c.model, schema.SdxlModel) and c.precision.vae is DType.fp16:
        yield Problem(
            "SDXL's VAE overflows in fp16 and draws black images",
            "precision.vae=fp16",
            "fp32 or bf16",
            "precision.vae=fp32",
        )


def _division(c: Config) -> Iterator[Problem]:
    """Closed division: the work per image is MLPerf's, or the run says that it is open."""
    if c.rules is Rules.open:
        return
    m = c.model
    fixed: list[tuple[str, object, object]] = [
        ("model.steps", m.steps, MLPERF_STEPS),
        ("model.guidance", m.guidance, MLPERF_GUIDANCE),
        ("model.negative_prompt", m.negative_prompt, MLPERF_NEGATIVE_PROMPT),
        ("model.noise", m.noise.value, Noise.shared.value),
    ]
    if not isinstance(m, schema.TinyModel):
        fixed += [("model.height", m.height, 1024), ("model.width", m.width, 1024)]
    for key, got, wanted in fixed:
        if got != wanted:
            yield Problem(
                f"`{key}` is fixed in MLPerf's closed division",
                str(got),
                f"{wanted}, or the open division",
                "rules=open",
            )


def _quant(c: Config) -> Iterator[Problem]:
    q = c.quant
    if q.level not in LEVELS:
        allowed = ", ".join(f"{level:g}" for level in LEVELS)
        yield Problem("`quant_level` does not exist", f"{q.level:g}", f"one of {allowed}")
    if not 0 <= q.alpha <= 1:
        yield Problem("`alpha` is out of range", f"{q.alpha:g}", "0 to 1")
    if not 0 < q.percentile <= 1:
        yield Problem(
            "`percentile` is a fraction of the denoising steps", f"{q.percentile:g}", "(0, 1]"
        )
    elif q.format is not Format.none and int(q.percentile * c.model.steps) < 1:
        yield Problem(
            "`percentile` leaves no denoising step to calibrate on",
            f"{q.percentile:g} of {c.model.steps} steps",
            f"at least {1 / c.model.steps:g}",
        )
    if q.calib_size < 1:
        yield Problem("`calib_size` is too small", str(q.calib_size), "at least 1")
    for name, least in (("block_size", 1), ("report_prompts", 0)):
        if getattr(q, name) < least:
            yield Problem(
                f"`quant.{name}` is too small", str(getattr(q, name)), f"at least {least}"
            )
    for name in ("include", "exclude", "alpha_only"):
        patterns = getattr(q, name) or []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                yield Problem(
                    f"`quant.{name}` has a broken regular expression", pattern, str(error)
                )
    if q.level == 4 and q.format not in (Format.fp8, Format.none):
        yield Problem(
            "level 4 quantizes attention, which exists in FP8 only",
            f"quant_level=4 with {q.format.value}",
            "levels 1 to 3, or FP8",
            "quant=fp8 quant_level=4",
        )
    if q.format is Format.int4_weight_only and q.level == 1 and not q.include:
        yield Problem(
            "level 1 is convolutions only, and INT4 blocks exist for Linear weights only",
            "quant_level=1",
            "level 2, 2.5 or 3",
            f"quant={q.name} quant_level=2",
        )
    if q.linear_ranges and q.calls not in (Calls.max, Calls.min):
        yield Problem(
            "Linear inputs keep the largest and the smallest amax over calls, not their sum",
            f"quant.linear_ranges=true quant.calls={q.calls.value}",
            "quant.calls=max or quant.calls=min",
        )
    if q.linear_ranges and q.calls is Calls.min and not _smoothed(q):
        yield Problem(
            "the smallest amax of a whole Linear input is not kept, only that of its channels",
            "quant.linear_ranges=true quant.calls=min without SmoothQuant",
            "quant.smooth=true with INT8, or quant.calls=max",
        )
    if q.format is Format.auto_mixed and not (q.target and q.target > 0):
        yield Problem(
            "`target` bounds the combined relative output error", str(q.target), "more than 0",
            "quant=auto_mixed target=0.2",
        )  # fmt: skip
    yield from _quant_ignored(c)


def _smoothed(q: schema.Quant) -> bool:
    return q.format in (Format.int8, Format.auto_mixed) and q.smooth


def _quant_ignored(c: Config) -> Iterator[Problem]:
    """Settings that a recipe would silently ignore."""
    q = c.quant
    if q.format is Format.none:
        return
    if q.target is not None and q.format is not Format.auto_mixed:
        yield Problem(
            "`target` would be ignored", f"quant={q.name}", "auto_mixed", "quant=auto_mixed"
        )
    if c.alpha is not None and not _smoothed(q):
        yield Problem(
            "`alpha` would be ignored: this recipe does not smooth activations",
            f"quant={q.name}",
            "a SmoothQuant recipe",
            "quant=int8",
        )
    if q.format in WEIGHT_ONLY:
        for key in ("percentile", "calib_size"):
            if getattr(c, key) is not None:
                yield Problem(
                    f"`{key}` would be ignored: weight-only formats need no calibration",
                    f"quant={q.name}",
                    "an activation format",
                    "quant=int8",
                )
        if q.statistics:
            yield Problem(
                "`quant.statistics` would be ignored: weight-only formats need no calibration",
                f"quant={q.name}",
                "quant.statistics=null",
            )
    if q.statistics and c.calib_size is not None:
        yield Problem(
            "`calib_size` would be ignored: the statistics come from a file",
            f"quant.statistics={q.statistics}",
            "one of both",
        )


def _scenario(c: Config) -> Iterator[Problem]:
    batch = c.backend.batch_size
    if isinstance(c.scenario, schema.SingleStream) and batch not in (None, 1):
        yield Problem(
            "`backend.batch_size` would be ignored: SingleStream sends one sample at a time",
            str(batch),
            "null or 1",
        )
    if isinstance(c.scenario, schema.MultiStream):
        samples = c.scenario.samples_per_query
        if batch is not None and batch > samples:
            yield Problem(
                "`backend.batch_size` can never be filled: MultiStream's query is smaller",
                str(batch),
                f"at most scenario.samples_per_query={samples}",
            )


def _ignored(c: Config) -> Iterator[Problem]:
    """Settings that would silently do nothing."""
    if c.dataset.shuffle and c.limit is None:
        yield Problem(
            "`dataset.shuffle` would be ignored: it draws the subset that `limit` asks for",
            "limit=null",
            "a number of prompts",
            "limit=64",
        )
    if not c.tracking.enabled and c.tracking.uri:
        yield Problem("`tracking.uri` would be ignored", "tracking=off", "tracking=mlflow")
    if c.mode is Mode.accuracy:
        if c.quality.keep_images is not None:
            yield Problem(
                "`quality.keep_images` would be ignored: accuracy mode keeps every picture",
                str(c.quality.keep_images),
                "mode=performance, or quality.keep_images=null",
            )
        if c.repeat > 1:
            yield Problem(
                "`repeat` would be ignored: accuracy mode has no speed to repeat",
                f"repeat={c.repeat}",
                "repeat=1",
            )
        for name in ("target_qps", "min_query_count"):
            if isinstance(c.scenario, schema.Offline) and getattr(c.scenario, name, None):
                yield Problem(
                    f"`scenario.{name}` would be ignored: accuracy mode sends every prompt once",
                    "mode=accuracy",
                    "mode=performance",
                )
