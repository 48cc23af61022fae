"""SDXL's real shapes with random weights, measured without a harness around it.

The checkpoint is made from synthetic ranges (`ranges.py`): speed does not depend on them, and
execution and simulation share them. Models stay loaded for the next step of the process.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.child import Context

BATCHES = 3
"""Timed, after one that prepares the batch size and one that warms up."""

USUAL = (
    "rules=open", "tracking=off", "quality=none", "model=sdxl_random", "dataset=builtin",
    "quant.report_prompts=0", "quality.baseline=false", "limit=32",
)  # fmt: skip
SMALL = (
    "model=tiny",
    "model.height=64",
    "model.width=64",
    "model.steps=2",
    "precision=fp32",
    "limit=2",
)
PLAIN = ("backend.graphs=none", "backend.compile=none", "backend.attention=torch")  # fmt: skip


def rehearsed(words: tuple[str, ...]) -> list[str]:
    """Words that make a run small; INT8 stands for FP8, which a processor only simulates."""
    other = "+rung=fp8" in words and "quant_level=4" not in words
    return [*SMALL, *PLAIN, *(["quant=int8"] if other else [])]


def composed(context: Context, words: tuple[str, ...], batch: int | None) -> Any:
    """The checked configuration of run.py; in a rehearsal the bundled model in small."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from sdxl.config.load import load
    from sdxl.config.registry import register
    from sdxl.core.paths import ROOT

    register()
    GlobalHydra.instance().clear()
    asked = [*USUAL, *words]
    if context.rehearse:
        asked += rehearsed(words)
        batch = batch and min(batch, 2)
    asked.append(f"backend.batch_size={batch or 'null'}")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return load(compose("run", overrides=asked))


def configure(context: Context, words: tuple[str, ...], batch: int | None) -> Any:
    """The same with synthetic statistics, where it quantizes."""
    config = composed(context, words, batch)
    if config.quant.format.value != "none" and not config.quant.statistics:
        from benchmarks.gpu import ranges

        file = ranges.write(config, context.work)
        quant = dataclasses.replace(config.quant, statistics=str(file))
        config = dataclasses.replace(config, quant=quant)
    return config


def _open(context: Context, words: tuple[str, ...], batch: int) -> Any:
    """A sampler on the model, opened once in a process; checkpoint and seconds in the step."""
    if "sampler" in context.state:
        return context.state["sampler"]
    from sdxl.bench.generators import open_generator
    from sdxl.model import prompts
    from sdxl.quant import build

    config = configure(context, words, batch)
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    artifacts: dict[str, Path] = {}
    if config.quant.format.value != "none":
        artifacts["unet"] = build.prepare(config).path
        seconds["checkpoint"] = round(time.perf_counter() - began, 1)
        _release(context)
    began = time.perf_counter()
    chosen = prompts.load(config.dataset, config.limit, config.seed)
    context.state |= {"config": config, "artifacts": artifacts, "chosen": chosen}
    context.state["sampler"] = open_generator(config, artifacts, chosen)
    seconds["load"] = round(time.perf_counter() - began, 1)
    context.note(seconds=seconds, words=list(words))
    return context.state["sampler"]


def run(context: Context, words: tuple[str, ...], batch: int) -> dict[str, Any]:
    """Open, prepare the batch size, measure; what was chosen and what fell back."""
    from benchmarks.gpu import compare

    sampler = _open(context, words, batch)
    latents = denoised(context, sampler, batch)
    found = batch_of(context, sampler, batch)
    facts = sampler.describe()
    beside = compare.beside(context, "-".join(_plain(words)), latents)
    executed = facts.get("execution", {})
    told = {key: executed[key] for key in ("real_layers", "simulated_layers", "fallbacks", "wide",
                                           "kernels", "fused", "unfused", "shapes")
            if key in executed}  # fmt: skip
    line = found["line"]
    for reason, count in executed.get("fallbacks", {}).items():
        line += f"; {count} simulated: {reason}"
    kinds = {name: facts[name] for name in ("attention", "loop", "compile_cache")}
    return {**found, **kinds, "latents_psnr_db": beside, "execution": told, "line": line}


def batch(context: Context, words: tuple[str, ...], batch: int) -> dict[str, Any]:
    """The same model in another batch size."""
    return batch_of(context, _open(context, words, batch), batch)


def _plain(words: tuple[str, ...]) -> list[str]:
    return [word.strip("+").replace("=", "_").replace("/", "_") for word in words]


def _indices(context: Context, batch: int) -> list[int]:
    return list(range(min(batch, 2) if context.rehearse else batch))


def denoised(context: Context, sampler: Any, batch: int) -> Any:
    """Latents of a batch; the loop's milliseconds are noted before the VAE is compiled."""
    import torch

    indices = _indices(context, batch)
    seconds = []
    for _ in range(2):  # the first prepares the batch size
        began = time.perf_counter()
        latents = sampler.latents(indices).float()
        if context.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(round(time.perf_counter() - began, 3))
    steps = context.state["config"].model.steps
    context.note(denoise={"first_s": seconds[0], "s": seconds[1], "steps": steps,
                          "ms_per_step": round(1e3 * seconds[1] / steps, 3)})  # fmt: skip
    return latents


def batch_of(context: Context, sampler: Any, batch: int) -> dict[str, Any]:
    """Images/s over a few batches, the stages of the fastest, memory, power; noted as it comes."""
    import torch

    from sdxl.bench import stage_clock
    from sdxl.core.gpu import Gpus

    indices = _indices(context, batch)
    cuda = context.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    pictures = sampler.generate(indices)
    first_s, spread = round(time.perf_counter() - began, 2), round(float(pictures.std()), 2)
    context.note(first_batch_s=first_s, pictures_std=spread)
    sampler.generate(indices)
    timed: list[tuple[float, dict[str, float]]] = []
    gpus = Gpus()
    for _ in range(BATCHES):
        with stage_clock.watching(sampler) as watched:
            began = time.perf_counter()
            sampler.generate(indices)
            seconds = time.perf_counter() - began
        timed.append((seconds, stage_clock.milliseconds(watched, seconds)))
        rates = [round(len(indices) / each, 4) for each, _ in timed]
        context.note(images_per_second=rates, gpu=gpus.sample())
    gpus.close()
    median = statistics.median(rates)
    stages = min(timed, key=lambda each: each[0])[1]
    memory = (
        {
            "allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
        }
        if cuda
        else {}
    )
    line = f"{median:.3f} images/s in batches of {len(indices)}, {stages}, {memory}"
    return {"median": median, "stage_ms": stages, "memory": memory, "batch": len(indices),
            "line": line}  # fmt: skip


def profile(context: Context, words: tuple[str, ...], batch: int) -> dict[str, Any]:
    """One replayed step under PyTorch's profiler: the longest kernels, and what they add up to."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    sampler = _open(context, words, batch)
    sampler.latents(_indices(context, batch))
    loop = sampler.stages.loop
    buffers = next(iter(loop._buffers.values()))
    cuda = context.device.type == "cuda"
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU

    def step() -> None:
        buffers.at.zero_()
        buffers.graph.replay() if buffers.graph else loop._step(buffers)
        if cuda:
            torch.cuda.synchronize()

    with torch.inference_mode():
        step()
        with watch(activities=[activity]) as watched:
            step()
    field = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = [e for e in watched.key_averages() if getattr(e, field) > 0]
    total = sum(getattr(event, field) for event in events) or 1.0
    events.sort(key=lambda event: -getattr(event, field))
    rows = [
        {"kernel": event.key[:160], "calls": event.count,
         "ms": round(getattr(event, field) / 1e3, 4),
         "share": round(getattr(event, field) / total, 4)}
        for event in events
    ]  # fmt: skip
    launches = sum(event.count for event in events)
    line = f"{total / 1e3:.2f} ms in {launches} kernels; " + "; ".join(
        f"{row['share']:.1%} {row['calls']} x {row['kernel'][:48]}" for row in rows[:10]
    )
    return {"total_ms": round(total / 1e3, 3), "launches": launches, "kernels": rows[:60],
            "line": line}  # fmt: skip


def against_simulated(context: Context, words: tuple[str, ...], batch: int) -> dict[str, Any]:
    """The same checkpoint simulated: blocks one by one, then latents of a batch."""
    from benchmarks.gpu import compare

    sampler = _open(context, words, batch)
    return compare.run(context, sampler, _indices(context, batch))


def _release(context: Context) -> None:
    import torch

    gc.collect()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()
