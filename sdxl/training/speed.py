"""How fast a training is: its rate, its step, what it waits for, its share of the device's peak."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sdxl.bench import peaks, roofline
from sdxl.config.choices import DType
from sdxl.config.schema.train import Training
from sdxl.core import environment

WARM = 2
"""First steps of a process, which compile and allocate: none of the figures is of them."""
LEAST = 5
"""Measured steps from which on the rate is set beside the device's peak."""
_LIVE = 50
"""Steps behind the figures while it runs."""


class Meter:
    """Takes every step's seconds; evaluations and checkpoints lie between steps and do not count.

    `processes` of the same kind train together, `device` is this one's, `module` what learns.
    """

    def __init__(self, settings: Training) -> None:
        self.settings = settings
        self.steps: list[float] = []
        self.waits: list[float] = []
        self.live: deque[tuple[float, float]] = deque(maxlen=_LIVE)
        self.processes, self.seen = 1, 0
        self._block = 0  # the measured steps before it
        self.device = torch.device("cpu")
        self.module: nn.Module | None = None
        self.given: Mapping[str, Any] = {}

    def begin(self, module: nn.Module, device: torch.device, processes: int) -> None:
        """What is going to be measured."""
        self.module, self.device, self.processes = module, device, processes
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def took(self, given: Mapping[str, Any], step_s: float, wait_s: float) -> None:
        """A step that took so long, of which it waited so long for `given`."""
        self.given, self.seen = given, self.seen + 1
        if self.seen > WARM:
            self.steps.append(step_s)
            self.waits.append(wait_s)
            self.live.append((step_s, wait_s))

    def now(self) -> dict[str, float]:
        """Of the last steps, for the one who looks on."""
        if not self.live:
            return {}
        steps, waits = zip(*self.live, strict=True)
        found = self._rate(steps, waits)
        if len(self.steps) >= LEAST:
            found |= self._beside_peak(found["samples_per_s"])
        return found

    def whole(self) -> dict[str, float]:
        """Of all measured steps, and the peak memory; empty before there are any."""
        if not self.steps:
            return {}
        found = self._rate(self.steps, self.waits)
        if len(self.steps) >= LEAST:
            found |= self._beside_peak(found["samples_per_s"])
        return {**found, "peak_memory_gib": self.memory_bytes / 2**30}

    def block(self) -> dict[str, float]:
        """Of the measured steps since this was asked last, and the peak memory."""
        steps, waits = self.steps[self._block :], self.waits[self._block :]
        self._block = len(self.steps)
        if not steps:
            return {}
        return {**self._rate(steps, waits), "peak_memory_gib": self.memory_bytes / 2**30}

    def facts(self) -> dict[str, Any]:
        """Beside the figures, for the record."""
        known = len(self.steps) >= LEAST
        return {
            "measured_steps": len(self.steps),
            "processes": self.processes,
            "device": self._device_name,
            "memory_of": "the GPU's allocator" if self.device.type == "cuda" else "resident",
            "tflop_per_sample": self.flop_per_sample / 1e12 if known else None,
            "peak_of": self._peak[1] if known else None,
        }

    def _rate(self, steps: Any, waits: Any) -> dict[str, float]:
        return {
            "samples_per_s": self.settings.batch * len(steps) / sum(steps),
            "step_ms": 1e3 * statistics.median(steps),
            "data_wait": sum(waits) / sum(steps),
        }

    def _beside_peak(self, rate: float) -> dict[str, float]:
        if not self.flop_per_sample:
            return {}
        done = rate * self.flop_per_sample
        return {"tflops": done / 1e12, "share_of_peak": done / self._peak[0]}

    @cached_property
    def flop_per_sample(self) -> float:
        """Operations of a step, there and back, for each sample; 0 where they cannot be counted."""
        assert self.module
        parts = self.processes * self.settings.accumulate
        return step_flop(self.module, self.given) * parts / self.settings.batch

    @property
    def memory_bytes(self) -> int:
        """The most that this process held: of the GPU's allocator, or resident."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return environment.peak_rss_bytes()

    @cached_property
    def _device_name(self) -> str:
        cuda = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if cuda else self.device.type

    @cached_property
    def _peak(self) -> tuple[float, str]:
        """Operations/s of all devices, and whose figure that is; processes share a processor."""
        wide = self.settings.arithmetic is DType.fp32
        count = self.processes if self.device.type == "cuda" else 1
        times = f"{count} x " if count > 1 else ""
        sheet = roofline.peaks_of(self._device_name)
        if sheet and not wide:
            return count * sheet.sixteen_bit, f"{times}{sheet.name}"
        what = self.settings.arithmetic.value
        found = peaks.known(what, str(self.device), self._device_name)
        return count * found, f"{times}{what} matrix products as measured here"


def step_flop(module: nn.Module, given: Mapping[str, Any]) -> int:
    """Operations of the products of one step, there and back, counted on shapes alone.

    What blocks compute a second time on the way back is no work done, and layers that stay as they
    are have no gradient of their own. 0 for a module whose work shapes alone cannot tell.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=True) as fake,
            _computed_once(module),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            shapes = {
                name: fake.from_tensor(value) if isinstance(value, Tensor) else value
                for name, value in given.items()
            }
            loss = module(**shapes)["loss"]
            torch.autograd.grad(loss, trained, allow_unused=True)
    except RuntimeError:
        return 0
    return int(counter.get_total_flops())


@contextmanager
def _computed_once(module: nn.Module) -> Iterator[None]:
    """Without gradient checkpointing for a while."""
    again = [m for m in module.modules() if getattr(m, "gradient_checkpointing", False)]
    for each in again:
        each.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for each in again:
            each.gradient_checkpointing = True  # type: ignore[assignment]
