"""Rules of the torch backend's settings, and what they need of a machine; imports no framework."""

from __future__ import annotations

from collections.abc import Iterator

from sdxl.backends.torch.config import Attention, Compile, Config, Execution, Graphs, Loop
from sdxl.config import schema
from sdxl.config.schema import Device
from sdxl.core import gpu
from sdxl.core.errors import Problem

REAL_FORMATS = (schema.Format.int8, schema.Format.fp8, schema.Format.auto_mixed)
"""Formats in which both factors of a product have 8 bits."""

OWN_GRAPHS = (Compile["reduce-overhead"], Compile["max-autotune"])
"""Modes in which torch.compile captures CUDA graphs itself."""

GPU_ATTENTION = (Attention.efficient, Attention.cudnn, Attention.fa3)


def problems_of(config: schema.Config) -> Iterator[Problem]:
    """Broken rules."""
    backend = config.backend
    assert isinstance(backend, Config)
    if backend.execution is not Execution.simulated:
        yield from _of_real(config, backend)
        yield from _of_auto(config, backend)
    elif not backend.fusion:
        yield Problem(
            "`backend.fusion=false` would be ignored: only 8-bit layers are fused",
            f"backend.execution={backend.execution.value}",
            "backend.execution=real, or backend.fusion=true",
            "backend.execution=real backend.fusion=false",
        )
    yield from _of_the_loop(backend)
    if config.shortcut.name != "none" and backend.loop is Loop.pipeline:
        yield Problem(
            "`shortcut` would be ignored: diffusers' own pipeline computes every step",
            f"shortcut={config.shortcut.name} backend.loop=pipeline",
            "backend.loop=static or scheduler, or shortcut=none",
            "backend.loop=static",
        )
    if backend.overlap:
        yield from _of_overlap(config, backend)
    if config.precision.auto and (reason := _accelerator(config.model.device)):
        yield auto_elsewhere(reason)


def auto_elsewhere(reason: str) -> Problem:
    """`precision=auto` of a model that is on no CPU."""
    return Problem(
        "`precision=auto` times a processor",
        reason,
        "a dtype, or the model on a CPU",
        "precision=fp16   # or: model.device=cpu",
    )


def _accelerator(device: Device) -> str:
    """Why the model will not be on a CPU, as far as the driver knows; empty if it may."""
    if device in (Device.cuda, Device.mps):
        return f"model.device={device.value}"
    found = gpu.find()[0] if device is Device.auto else None
    return f"the model would be on {found.name}" if found else ""


def _of_real(config: schema.Config, backend: Config) -> Iterator[Problem]:
    if config.quant.format not in REAL_FORMATS:
        yield Problem(
            f"`backend.execution={backend.execution.value}` would be ignored: the products stay in "
            "16 or 32 bits",
            f"quant={config.quant.name}",
            "a recipe that quantizes weights and inputs",
            f"quant=int8 backend.execution={backend.execution.value}",
        )
    if backend.compile in OWN_GRAPHS:
        yield Problem(
            "8-bit layers choose their kernels by timing, which torch.compile cannot trace: it "
            "compiles the VAE alone here, and has no UNet whose launches it could capture",
            f"backend.execution={backend.execution.value} backend.compile={backend.compile.value}",
            "compile=default for the VAE, or none",
            "backend.compile=default",
        )


def _of_auto(config: schema.Config, backend: Config) -> Iterator[Problem]:
    if backend.execution is not Execution.auto:
        return
    if config.model.device in (Device.cuda, Device.mps):
        yield Problem(
            "`backend.execution=auto` chooses among a processor's kernels",
            f"model.device={config.model.device.value}",
            "real, which times a GPU's kernels for each shape",
            "backend.execution=real",
        )
    if config.quant.format in (schema.Format.fp8, schema.Format.auto_mixed):
        yield Problem(
            "`backend.execution=auto` chooses between INT8 and floats: a CPU has no FP8 arithmetic",
            f"quant={config.quant.name}",
            "an INT8 recipe",
            "quant=int8 backend.execution=auto",
        )


def _of_the_loop(backend: Config) -> Iterator[Problem]:
    asked = backend.graphs in (Graphs.step, Graphs.loop)
    if asked and backend.loop is not Loop.static:
        yield Problem(
            "`backend.graphs` would be ignored: only the loop with buffers that stay is captured",
            f"backend.loop={backend.loop.value} backend.graphs={backend.graphs.value}",
            "backend.loop=static, or backend.graphs=none",
            "backend.loop=static",
        )
    if backend.loop is Loop.pipeline and backend.compile is not Compile.none:
        yield Problem(
            "`backend.compile` would compile the VAE alone: diffusers' own pipeline calls the UNet "
            "as it is",
            f"backend.loop=pipeline backend.compile={backend.compile.value}",
            "backend.loop=static or scheduler, or backend.compile=none",
            "backend.loop=static",
        )
    if asked and backend.compile in OWN_GRAPHS:
        yield Problem(
            "torch.compile captures CUDA graphs of its own in this mode",
            f"backend.graphs={backend.graphs.value} backend.compile={backend.compile.value}",
            "one of both",
            "backend.compile=default",
        )


def _of_overlap(config: schema.Config, backend: Config) -> Iterator[Problem]:
    one_by_one = (schema.SingleStream, schema.MultiStream)
    if isinstance(config.scenario, one_by_one) or backend.devices is not None:
        workers = backend.devices is not None
        yield Problem(
            "`backend.overlap` would be ignored: "
            + ("workers draw one whole batch after another" if workers
               else "a query comes after the one before has been answered"),
            f"backend.devices={backend.devices}" if workers else f"scenario={config.scenario.name}",
            "Offline or Server, with the device in this process",
            "backend.overlap=false",
        )  # fmt: skip
    captured = backend.loop is Loop.static and backend.graphs is not Graphs.none
    if not captured or backend.compile in OWN_GRAPHS:
        yield Problem(
            "`backend.overlap` needs the UNet's steps in captured graphs: otherwise Python, which "
            "launches every kernel, has no time for two streams",
            f"backend.loop={backend.loop.value} backend.graphs={backend.graphs.value} "
            f"backend.compile={backend.compile.value}",
            "loop=static, graphs=auto, step or loop, compile=none or default",
            "backend.graphs=step backend.overlap=true",
        )


def of_schedule(backend: Config, reason: str) -> Iterator[Problem]:
    """What needs the loop with buffers that stay, where a scheduler is not for it."""
    asked = {
        "backend.overlap=true": backend.overlap,
        f"backend.graphs={backend.graphs.value}": backend.graphs in (Graphs.step, Graphs.loop),
    }
    words = [word for word, wanted in asked.items() if wanted and reason]
    if words:
        yield Problem(
            f"`{' '.join(words)}` needs a scheduler that the static loop has as a table",
            reason,
            "scheduler=euler, for one",
            "backend.graphs=auto backend.overlap=false",
        )


def missing(
    config: schema.Config, device: str | None = None, memory_bytes: int | None = None
) -> Iterator[Problem]:
    """Settings that need CUDA where there is none, or more memory than the GPU has.

    As the driver says, or for a device that is known already.
    """
    backend = config.backend
    assert isinstance(backend, Config)
    yield from _without_cuda(config, backend, device)
    if device is None and config.model.device not in (Device.cpu, Device.mps):
        found, _ = gpu.find()
        memory_bytes = found.memory_bytes if found else None
    if memory_bytes:
        from sdxl.backends.torch import memory

        yield from memory.problems_of(config, memory_bytes)


def _without_cuda(config: schema.Config, backend: Config, device: str | None) -> Iterator[Problem]:
    asked = {
        f"backend.graphs={backend.graphs.value}": backend.graphs in (Graphs.step, Graphs.loop),
        f"backend.attention={backend.attention.value}": backend.attention in GPU_ATTENTION,
        "backend.overlap=true": backend.overlap,
    }
    if device == "cuda" and backend.execution is Execution.auto:
        yield Problem(
            "`backend.execution=auto` chooses among a processor's kernels",
            "the model is on cuda",
            "real, which times a GPU's kernels for each shape",
            "backend.execution=real   # or: model.device=cpu",
        )
    words = [word for word, wanted in asked.items() if wanted]
    if not words or device == "cuda":
        return
    reason = f"the model is on {device}" if device else _no_cuda(config.model.device)
    for word in words if reason else []:
        name = word.partition("=")[0]
        usual = {"backend.graphs": "none", "backend.overlap": "false"}.get(name, "auto")
        yield Problem(f"`{word}` needs CUDA", reason, "an NVIDIA GPU", f"{name}={usual}")


def _no_cuda(device: Device) -> str:
    """Why the model will not be on a GPU; empty if it may."""
    if device in (Device.cpu, Device.mps):
        return f"model.device={device.value}"
    found, reason = gpu.find()
    # Without NVML nobody knows before torch is there; `open` looks again.
    return "" if found or "NVML was not asked" in reason else reason
