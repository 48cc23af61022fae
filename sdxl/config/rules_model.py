"""Rules of the model: sizes, settings that would be ignored, the work per image in MLPerf."""

from __future__ import annotations

from collections.abc import Iterator

from sdxl.config import loras, schema
from sdxl.config.schema import Config, Device, DType, Noise, Rules
from sdxl.core.errors import Problem

MLPERF_STEPS = 20
MLPERF_GUIDANCE = 8.0
MLPERF_NEGATIVE_PROMPT = "normal quality, low quality, worst quality, low res, blurry, nsfw, nude"
"""The benchmark's fixed work per image (MLCommons text_to_image reference)."""


def settings(c: Config) -> Iterator[Problem]:
    """Broken rules of the model's own settings."""
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
    if c.model.unet and getattr(c.model, "lora", None):
        yield Problem(
            "`model.lora` would be ignored by the UNet that `model.unet` brings",
            "model.lora with model.unet",
            "one of both",
        )
    if c.model.latents and c.model.noise is Noise.per_prompt:
        yield Problem(
            "`model.latents` would be ignored: noise is drawn for each prompt",
            "model.noise=per_prompt",
            "model.noise=shared",
        )
    yield from loras.problems_of(c.model)
    yield from _scheduler(c.scheduler)
    if isinstance(c.model, schema.SdxlModel):
        yield from _single_file(c.model)
        # Of any other VAE its own config.json, and the first picture, will tell.
        if c.model.path == schema.SDXL_BASE and not c.model.vae and c.precision.vae is DType.fp16:
            yield Problem(
                "SDXL's VAE overflows in fp16 and draws black images",
                "precision.vae=fp16",
                "fp32 or bf16, or a VAE made for fp16",
                "precision.vae=fp32   # or model.vae=FOLDER",
            )


def _scheduler(s: schema.Scheduler) -> Iterator[Problem]:
    """Numbers of the scheduler that do not go together."""
    low, high = (getattr(s, name, None) for name in ("sigma_min", "sigma_max"))
    if low and high and low >= high:
        yield Problem(
            "`scheduler.sigma_min` must be below `scheduler.sigma_max`",
            f"{low:g} and {high:g}",
            "such as 0.002 and 80",
        )


def _single_file(model: schema.SdxlModel) -> Iterator[Problem]:
    """What a folder or a hub id has by itself, and a file has not."""
    if not model.path.endswith(".safetensors"):
        if model.config:
            yield Problem(
                "`model.config` would be ignored: only a single file needs one",
                f"model.path={model.path}",
                "model.path=FILE.safetensors, or model.config=null",
                "model.config=null",
            )
        return
    if model.variant and not model.config:
        yield Problem(
            "`model.variant` would be ignored: a single file has no variants",
            f"model.variant={model.variant}",
            "model.variant=null",
            "model.variant=null",
        )
    if model.revision:
        yield Problem(
            "`model.revision` would be ignored: a file is not read from the hub",
            f"model.revision={model.revision}",
            "model.revision=null",
            "model.revision=null",
        )


def rules_of(model: schema.Model) -> Rules:
    """The division of a run that asks for none: closed for the benchmark's model by its name.

    Whether a local folder holds the same weights takes reading all of it: it says so itself.
    """
    named = isinstance(model, schema.SdxlModel) and model.path == schema.SDXL_BASE
    changed = model.unet or model.vae or getattr(model, "lora", None)
    return Rules.closed if named and not changed else Rules.open


def division(c: Config) -> Iterator[Problem]:
    """Closed division: the work per image is MLPerf's, or the run says that it is open."""
    if c.rules is Rules.open:
        return
    m = c.model
    fixed: list[tuple[str, object, object]] = [
        ("model.steps", m.steps, MLPERF_STEPS),
        ("model.negative_prompt", m.negative_prompt, MLPERF_NEGATIVE_PROMPT),
    ]
    if not isinstance(m, schema.ScenesModel):  # trained by us, with settings of its own
        fixed.append(("model.noise", m.noise.value, Noise.shared.value))
        fixed.append(("model.guidance", m.guidance, MLPERF_GUIDANCE))
    if not isinstance(m, schema.TinyModel | schema.ScenesModel):
        fixed += [("model.height", m.height, 1024), ("model.width", m.width, 1024)]
    if c.scheduler.name != "auto":  # the model's own is looked at when it is opened
        fixed.append(("scheduler", c.scheduler.name, "euler"))
        fixed += [
            (f"scheduler.{name}", value.value, usual)
            for name, usual in (("spacing", "leading"), ("prediction_type", "epsilon"))
            if (value := getattr(c.scheduler, name, None))
        ]
    for key, got, wanted in fixed:
        if got != wanted:
            yield Problem(
                f"`{key}` is fixed in MLPerf's closed division",
                str(got),
                f"{wanted}, or the open division",
                "rules=open",
            )
