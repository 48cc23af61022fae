"""`profile=true`: where one batch spends its time, by kind of module and by kernel.

Two more batches are drawn after the clock has stopped. In one every module is timed (eagerly, with
the sampler's own loop: neither compiled code nor a CUDA graph has modules); the other runs as
measured, under PyTorch's profiler. Watching costs time, so shares mean more than milliseconds.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

TOP = 10
TRACE = "trace.json.gz"
"""In the record's folder; chrome://tracing and ui.perfetto.dev show it."""


def run(generator: Any, images: int, folder: Path) -> dict[str, Any]:
    """Profile a batch of the first `images` prompts; JSON-ready, the trace goes to `folder`.

    `kinds`: component -> kind -> ms; `modules`: the longest of all components, their own time;
    `kernels`: the longest, of the GPU where there is one, else of the processor.
    """
    indices = list(range(images))
    stages = generator.stages
    with ExitStack() as watching:
        watching.enter_context(stages.eager())
        timed = {
            name: watching.enter_context(ModuleTimes(module))
            for name, module in stages.modules.items()
        }
        began = time.perf_counter()
        generator.generate(indices)
        eager_s = time.perf_counter() - began
    activities = [ProfilerActivity.CPU]
    on_gpu = torch.cuda.is_available() and stages.device.type == "cuda"
    if on_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as watched:
        began = time.perf_counter()
        generator.generate(indices)
        seconds = time.perf_counter() - began
    folder.mkdir(parents=True, exist_ok=True)
    watched.export_chrome_trace(str(folder / TRACE))
    kinds = {name: times.by_kind() for name, times in timed.items()}
    modules = [
        (spent, kind, f"{name}.{module}" if module else name)
        for name, times in timed.items()
        for module, kind, spent in times.longest(TOP)
    ]
    modules.sort(reverse=True)
    return {
        "images": images,
        "modules_ms": _ms(eager_s),
        "kernels_ms": _ms(seconds),
        "kinds": {
            name: {kind: _ms(spent) for kind, spent in found.items()}
            for name, found in kinds.items()
        },
        "modules": [
            {"module": module, "kind": kind, "ms": _ms(spent)}
            for spent, kind, module in modules[:TOP]
        ],
        "kernels": _kernels(watched.key_averages(), on_gpu),
        "trace": TRACE,
    }


def _kernels(averages: Any, on_gpu: bool) -> list[dict[str, Any]]:
    """The longest, by the time of their own, each with its share of all."""
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = [event for event in averages if event.device_type == wanted]
    total = sum(getattr(event, field) for event in found) or 1.0
    found.sort(key=lambda event: -getattr(event, field))
    return [
        {
            "kernel": event.key,
            "calls": event.count,
            "ms": round(getattr(event, field) / 1e3, 3),
            "share": round(getattr(event, field) / total, 4),
        }
        for event in found[:TOP]
    ]


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


KINDS: dict[str, tuple[str, ...]] = {
    "linear": ("Linear", "LoRACompatibleLinear"),
    "conv": ("Conv2d", "LoRACompatibleConv"),
    "attention": ("Attention",),
    "norm": ("GroupNorm", "LayerNorm"),
    "activation": ("SiLU", "GELU", "GEGLU", "FeedForward"),
}
"""Class names by kind; an 8-bit layer carries its own `kind`. The rest is `other`."""


class ModuleTimes:
    """Times every module of a network while it is entered; own time, without the parts inside.

    With attention, that is both products and the softmax; with `other`, residual sums and copies.
    On CUDA each module waits for its kernels, which makes the sum slower than an unwatched pass.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.seconds: dict[str, float] = defaultdict(float)
        self._kinds = {name: _kind(module) for name, module in network.named_modules()}
        self._open: list[tuple[float, float]] = []
        self._handles: list[Any] = []
        held = [*network.parameters(), *network.buffers()]
        self._cuda = any(each.is_cuda for each in held)

    def __enter__(self) -> ModuleTimes:
        for name, module in self.network.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._begin))
            self._handles.append(
                module.register_forward_hook(lambda *_, name=name: self._end(name))
            )
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def by_kind(self) -> dict[str, float]:
        """Seconds by kind, longest first."""
        found: dict[str, float] = defaultdict(float)
        for name, seconds in self.seconds.items():
            found[self._kinds[name]] += seconds
        return dict(sorted(found.items(), key=lambda each: -each[1]))

    def longest(self, count: int = 10) -> list[tuple[str, str, float]]:
        """(module, kind, seconds), longest first."""
        order = sorted(self.seconds.items(), key=lambda each: -each[1])
        return [(name, self._kinds[name], seconds) for name, seconds in order[:count]]

    def _begin(self, *_: object) -> None:
        self._open.append((self._now(), 0.0))

    def _end(self, name: str) -> None:
        began, inside = self._open.pop()
        whole = self._now() - began
        self.seconds[name] += whole - inside
        if self._open:
            outer, others = self._open[-1]
            self._open[-1] = outer, others + whole

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def _kind(module: nn.Module) -> str:
    own = getattr(module, "kind", None)
    if isinstance(own, str):
        return own
    name = type(module).__name__
    return next((kind for kind, classes in KINDS.items() if name in classes), "other")
