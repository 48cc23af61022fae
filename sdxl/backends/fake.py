"""A backend without a model: deterministic pictures, chosen latencies and faults, no torch.

It tests the harness (`+experiment=harness_check`), not SDXL.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from sdxl.config import schema
from sdxl.config.plugins import Backend
from sdxl.config.ranges import LATENCY_MS, Range
from sdxl.config.rules_model import division
from sdxl.config.usual import changed
from sdxl.config.words import typed
from sdxl.core.errors import Problem
from sdxl.core.types import Order


class Fault(str, Enum):
    """What goes wrong, on purpose, at `fail_at`."""

    none = "none"
    raises = "raises"  # an exception in the worker
    kill = "kill"  # SIGKILL, as from the out-of-memory killer
    hang = "hang"  # never returns
    not_finite = "not_finite"  # a picture of NaN
    constant = "constant"  # a picture of one colour


class Answers(str, Enum):
    """How honestly pictures are made; MLPerf's audits must catch all but the first."""

    honest = "honest"
    random = "random"  # the last pixel differs from one call to the next: TEST01
    cached = "cached"  # a prompt seen before costs no time: TEST04


@dataclass
class Config(schema.Backend):
    """`latency_ms` per batch plus `sample_ms` per image; `fail` at the `fail_at`-th image.

    The warm-up's images count.
    """

    latency_ms: float = 2.0  # per batch
    sample_ms: float = 1.0  # per picture, on top
    fail: Fault = Fault.none  # what goes wrong, on purpose
    fail_at: int = 40  # at which picture, those of the warm-up counted
    answers: Answers = Answers.honest  # pictures as they should be, or not

    RANGES: ClassVar[dict[str, Range]] = {
        "latency_ms": LATENCY_MS,
        "sample_ms": LATENCY_MS,
        "fail_at": Range(1, 1_000_000_000),
    }


_READ = ("height", "width", "negative_prompt")
"""Settings of a model that mean something here: sizes, and texts, which a harness hands on."""


def problems_of(config: schema.Config) -> list[Problem]:
    """Settings of a model that this backend would ignore."""
    default = schema.DType.fp32
    dtypes = dataclasses.asdict(config.precision)
    ignored = {f"model.{name}": value for name, value in changed("model", config.model).items()}
    ignored = {key: value for key, value in ignored.items() if key.split(".")[1] not in _READ}
    ignored |= {
        f"precision.{name}": default for name in dtypes if dtypes[name] not in (default, False)
    }
    refused = "".join(problem.what for problem in division(config))  # already, by the rules
    problems = [
        Problem(
            f"`{key}` would be ignored: the fake backend has no model",
            typed(key, _at(config, key)),
            "its usual value, or a backend with a model",
            typed(key, usual),
        )
        for key, usual in ignored.items()
        if f"`{key}`" not in refused
    ]
    if config.quant.format is not schema.Format.none:
        problems.append(
            Problem("the fake backend cannot quantize", f"quant={config.quant.name}", "quant=none")
        )
    return problems


def _at(config: schema.Config, key: str) -> Any:
    group, name = key.split(".")
    return getattr(getattr(config, group), name)


def _open(config: schema.Config, artifacts: dict[str, Path] | None = None) -> FakeGenerator:
    """A generator for `config`; loads nothing."""
    assert isinstance(config.backend, Config)
    return FakeGenerator(config.backend, config.model, config.seed)


class FakeGenerator:
    """Pictures that depend on the index and the seed only."""

    def __init__(self, backend: Config, model: schema.Model, seed: int) -> None:
        self.backend, self.seed = backend, seed
        self.shape = (model.height, model.width, 3)
        self.made = 0
        self._late_s = 0.0
        self._ramp: Any = None
        self.seen: set[int] = set()
        self.cut: list[int] = []

    def draw(self, orders: Sequence[Order]) -> Any:
        """The pictures whose index is the order's seed; what it says is nothing to draw."""
        return self.generate([order.seed - self.seed for order in orders])

    def generate(self, indices: Sequence[int]) -> Any:
        """Gradient pictures (B, H, W, 3), one hue per index; takes the configured time."""
        import numpy as np

        began = time.perf_counter()
        if self._ramp is None:
            height, width, _ = self.shape
            rows = np.linspace(0, 96, height * width, dtype=np.uint8).reshape(height, width)
            self._ramp = np.repeat(rows, 3, axis=1)  # whole rows of RGB: ten times faster to add
        hue = np.array([[(i * 37 + self.seed) % 160, (i * 91) % 160, (i * 53) % 160]
                        for i in indices], np.uint8)  # fmt: skip
        images = (np.tile(hue, self.shape[1])[:, None] + self._ramp).reshape(-1, *self.shape)
        fail_now = self.made < self.backend.fail_at <= self.made + len(indices)
        self.made += len(indices)
        if fail_now:
            images = self._fail(images)
        if self.backend.answers is Answers.random:
            images[:, -1, -1] = np.frombuffer(os.urandom(3 * len(indices)), np.uint8).reshape(-1, 3)
        self._pass(began, self._seconds(indices))
        return images

    def _pass(self, began: float, wanted_s: float) -> None:
        """Let a batch's time pass. The latency is the product here: a device of known speed.

        A timer that woke late (1.3 ms on a busy core: 6 % of a batch of 20 ms) shortens the next.
        """
        due = began + wanted_s - min(self._late_s, wanted_s)
        threading.Event().wait(max(0.0, due - time.perf_counter()))
        self._late_s = max(0.0, time.perf_counter() - due)

    def _seconds(self, indices: Sequence[int]) -> float:
        """What a batch takes; a cache answers what it has seen at once."""
        new = set(indices) - self.seen
        if self.backend.answers is Answers.cached:
            self.seen |= new
            if not new:
                return 0.0
        return (self.backend.latency_ms + self.backend.sample_ms * len(indices)) / 1e3

    def _fail(self, images: Any) -> Any:
        import numpy as np

        from sdxl.model.images import to_uint8

        match self.backend.fail:
            case Fault.raises:
                raise RuntimeError("the fake backend was asked to fail")
            case Fault.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            case Fault.hang:
                threading.Event().wait()
            case Fault.not_finite:
                return to_uint8(np.full(images.shape, np.nan, np.float32))
            case Fault.constant:
                return np.zeros_like(images)
        return images

    def describe(self) -> dict[str, Any]:
        """Facts for the record."""
        return {"backend": "fake", "device": "cpu"}

    def close(self) -> None:
        """Nothing to free."""


BACKEND = Backend(Config, _open, "nothing", needs_torch=False, problems_of=problems_of)
