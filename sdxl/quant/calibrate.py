"""Calibration: one pass of the unquantized UNet, kept at every useful size, continued later.

Statistics of the first 8 prompts are a snapshot on the way to 128. Each size is an artifact of its
own whose key is the model, the loop and the prompts; a larger size starts from the largest
snapshot that fits, an interrupted one from where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch

from sdxl.config import content_key, schema, shortcuts
from sdxl.config.derive import calibration_file
from sdxl.config.schema import Config, Rules
from sdxl.core import locks, store
from sdxl.core.errors import UserError
from sdxl.core.progress import Count, Report, silent
from sdxl.core.store import Artifact
from sdxl.core.types import Build
from sdxl.model import checkout, guidance, prompts, schedulers
from sdxl.model.components import Settings, Source, torch_device
from sdxl.model.prompts import Prompt
from sdxl.model.sampler import Sampler
from sdxl.model.scenes import captions
from sdxl.model.sources import open_source
from sdxl.quant import statistics
from sdxl.quant.collect import Collector
from sdxl.quant.statistics import Statistics
from sdxl.quant.unquantized import Unquantized

KIND = "statistics"
SCENES = "scenes"
"""`calib_dataset`: captions of training scenes."""
FILE = "statistics.safetensors"
SAVE_EVERY_S = 60.0
"""Longest stretch of calibration that a killed process loses."""


class Calibration:
    """The unquantized model, its prompts and the one denoise loop, ready to be watched."""

    def __init__(self, config: Config, texts: list[Prompt]) -> None:
        source = open_source(config.model, config.seed)
        self.stages = Unquantized(source, config)
        # The division's rules are about measuring; here the negative prompt is encoded once.
        settings = dataclasses.replace(config, rules=Rules.open)
        self.sampler = Sampler(self.stages, source, settings, texts)
        self.sampler.encode_ahead()
        self.stages.load()

    @property
    def unet(self) -> Any:
        """The unquantized UNet."""
        return self.stages.network


def calibration_prompts(quant: schema.Quant) -> list[Prompt]:
    """The first `calib_size` prompts of the calibration dataset.

    Raises `UserError` if there are fewer.
    """
    if quant.calib_dataset == SCENES:
        known = enumerate(captions.training(quant.calib_size))
        return [Prompt(n, caption.text, n) for n, caption in known]
    dataset: schema.Dataset = schema.Dataset("builtin")
    if path := calibration_file(quant):
        dataset = schema.TsvDataset(name=quant.calib_dataset, path=path)
    every = prompts.load(dataset)
    if quant.calib_size > len(every):
        raise UserError(
            "`calib_size` is larger than the calibration prompts",
            f"{quant.calib_size} of {len(every)} in {quant.calib_dataset}",
            f"at most {len(every)}",
            f"calib_size={len(every)}, or quant.calib_dataset=FILE.tsv with more captions",
        )
    return every[: quant.calib_size]


def settings_of(config: Config, attention: bool) -> dict[str, Any]:
    """What the statistics depend on, except the prompts; never level, alpha or percentile."""
    model = config.model
    source = open_source(model, config.seed)
    scheduler = schedulers.scheduler_of(config.scheduler, source)
    latents = store.sha256(store.resolve(model.latents)) if model.latents else None
    return {
        "version": statistics.VERSION,
        "model": model_settings(source, config),
        "size": [model.height, model.width],
        "steps": model.steps,
        "guidance": model.guidance,
        "negative_prompt": model.negative_prompt,
        "noise": [model.noise.value, latents or config.seed],
        "scheduler": [
            type(scheduler).__name__,
            {k: v for k, v in scheduler.config.items() if not k.startswith("_")},
        ],
        "dtypes": [config.precision.text_encoder.value, config.precision.unet.value],
        "attention": attention,
        **_beyond_euler(config, source, type(scheduler).__name__),
        **_shortcut(config, source),
    }


def _shortcut(config: Config, source: Source) -> Settings:
    """The kind of each UNet call, whose inputs differ; nothing where all are computed."""
    if config.shortcut.name == "none":
        return {}
    calls = schedulers.schedule_of(config.scheduler, config.model.steps, source).calls
    steps = guidance.steps_of(config.shortcut, config.model, source, calls)
    kinds = [step.kind for step in steps]
    found: Settings = {"calls": kinds, "branch": shortcuts.branch_of(config.shortcut)}
    if isinstance(config.shortcut, schema.TokenMerging):
        found |= {"ratio": config.shortcut.ratio, "levels": config.shortcut.levels}
    return {"shortcut": found}


def _beyond_euler(config: Config, source: Source, scheduler: str) -> Settings:
    """What else the inputs follow from; nothing for a guided Euler, whose keys are older."""
    found: Settings = {}
    if scheduler != "EulerDiscreteScheduler":
        schedule = schedulers.schedule_of(config.scheduler, config.model.steps, source)
        found = {"timesteps": schedule.timesteps, **schedule.words}
        if schedule.noisy:
            found["seed"] = config.seed
    if width := guidance.width(source):
        found["guidance_width"] = width
    if guidance.zero_negative(config.model, source):
        found["negative_prompt"] = "zeros"
    return found


def model_settings(source: Source, config: Config) -> dict[str, Any]:
    """The identity of the weights, a fused LoRA included, and of a checkout's code."""
    found = {"name": config.model.name, "weights": source.identity()}
    return found | checkout.identity(config.model)


def brought(config: Config) -> list[str]:
    """What the files hold that statistics come from; empty where settings alone decide them."""
    quant = config.quant
    if quant.statistics:
        return [store.sha256(store.resolve(quant.statistics))]
    if not quant.format.weight_only and calibration_file(quant):
        return [key_of({}, calibration_prompts(quant))]
    return []


def key_of(settings: dict[str, Any], texts: list[Prompt]) -> str:
    """Content key of the statistics over exactly these prompts."""
    lines = "\n".join(f"{prompt.row}\t{prompt.text}" for prompt in texts)
    return content_key.key(settings, hashlib.sha256(lines.encode()).hexdigest(), len(texts))


def snapshot_sizes(asked: int) -> list[int]:
    """Powers of two below `asked`, then `asked`."""
    sizes = [1 << n for n in range(asked.bit_length()) if 1 << n < asked]
    return [*sizes, asked]


def get(config: Config, attention: bool = False, report: Report = silent) -> Artifact:
    """The statistics that `config` needs, found or made.

    `attention`: with q, k, v and softmax, from plain instead of fused attention.
    """
    texts = calibration_prompts(config.quant)
    settings = settings_of(config, attention)
    key = key_of(settings, texts)
    found = store.find(KIND, key)
    if found:
        return found
    if config.build is Build.never:
        return store.get(KIND, key, _never, settings=settings, allow=Build.never,
                         otherwise="first quantize.py with the same settings")  # fmt: skip
    folder, name = store.root() / KIND, content_key.key(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # One lock for all sizes: the second of two asks continues from the first's snapshots.
        with locks.held(folder / f"{name}.calibration.lock", f"the calibration {name}"):
            known = store.find(KIND, key)
            return known or _calibrate(config, texts, settings, attention, report)
    except OSError as error:
        raise store.disk_error(error, store.root()) from error


def _calibrate(
    config: Config, texts: list[Prompt], settings: dict[str, Any], attention: bool, report: Report
) -> Artifact:
    """Run the prompts that no snapshot has, publishing snapshots on the way."""
    import time

    calibration = Calibration(config, texts)
    collector = Collector(calibration.unet, attention)
    partial = store.root() / "tmp" / f"{KIND}-{content_key.key(settings)}.partial"
    table = _largest_start(settings, texts, collector, partial)
    progress = Count("calibration", len(texts), report, table.calls)
    saved = time.perf_counter()
    sizes = set(snapshot_sizes(len(texts)))
    try:
        while table.calls < len(texts):
            calibration.sampler.latents([table.calls], on_step=collector.step)
            tensors, channels = collector.end_of_prompt()
            table.timesteps = collector.timesteps
            table.add(tensors, channels)
            progress.advance()
            if table.calls in sizes:
                artifact = _publish(table, settings, texts[: table.calls], config)
                partial.unlink(missing_ok=True)
            elif time.perf_counter() - saved > SAVE_EVERY_S:
                _save_partial(table, settings, texts, partial)
                saved = time.perf_counter()
    except BaseException:
        if table.calls and table.calls not in sizes:
            _save_partial(table, settings, texts, partial)
        raise
    finally:
        collector.close()
    return artifact


def _largest_start(
    settings: dict[str, Any], texts: list[Prompt], collector: Collector, partial: Path
) -> Statistics:
    """The statistics of the most prompts that are already known; empty ones at worst."""
    for size in range(len(texts) - 1, 0, -1):
        found = store.find(KIND, key_of(settings, texts[:size]))
        if found:
            known = statistics.load(found.path / FILE)
            break
    else:
        known = empty(collector, settings)
    if partial.is_file():
        kept = statistics.load(partial)
        key = kept.settings.pop("prompts", None)
        if known.calls < kept.calls < len(texts) and key == key_of(settings, texts[: kept.calls]):
            return kept
    return known


def empty(collector: Collector, settings: dict[str, Any]) -> Statistics:
    """Statistics of no prompt, with the collector's columns."""
    none = torch.empty(0)
    return Statistics(
        torch.empty(0, 0, len(collector.tensors)), none, none, [],
        list(collector.tensors), dict(collector.channels), settings,
    )  # fmt: skip


def _save_partial(
    table: Statistics, settings: dict[str, Any], texts: list[Prompt], file: Path
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    key = key_of(settings, texts[: table.calls])
    unfinished = dataclasses.replace(table, settings={**settings, "prompts": key})
    temporary = file.with_suffix(".writing")
    unfinished.save(temporary)
    temporary.replace(file)


def _publish(
    table: Statistics, settings: dict[str, Any], texts: list[Prompt], config: Config
) -> Artifact:
    table.check()

    def build(folder: Path) -> dict[str, Any]:
        table.save(folder / FILE)
        return {
            "versions": {"torch": torch.__version__},
            "device": {"name": str(torch_device(config.model.device))},
        }

    return store.get(KIND, key_of(settings, texts), build,
                     settings={**settings, "prompts": len(texts)})  # fmt: skip


def _never(_folder: Path) -> dict[str, Any]:
    raise AssertionError("build=never does not build")
