"""The one training loop: every random number is a function of the step, so any run can go on.

The global batch, its noise and its order depend on the seed and the step alone; each process takes
its share. One process or several, unbroken or resumed: the losses are the same up to rounding.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdxl.config import content_key, rules_train
from sdxl.config.schema.train import Training
from sdxl.core import store
from sdxl.core.errors import SdxlError, UserError
from sdxl.training import average, checkpoint, machine, put, recipe
from sdxl.training.ahead import Ahead
from sdxl.training.average import Averaged
from sdxl.training.series import weights
from sdxl.training.speed import Meter

FILE = "checkpoint.safetensors"
AGAIN = "the same command again, which goes on, once there is room"
_MAY_CHANGE = (
    *("steps", "decay_share", "checkpoint_s", "max_s", "restart", "run", "evaluate_every"),
    *("keep_every", "eval_prompts", "eval_steps", "eval_batch", "guidance"),
)


@dataclass(frozen=True)
class Batch:
    """One process's share of a step: rows of the data, and the step's random numbers."""

    step: int
    rows: NDArray[np.int64]
    share: slice
    whole: int
    seed: int

    def draw(self, name: str, *shape: int, uniform: bool = False) -> Tensor:
        """Normal (or uniform) numbers for these rows, (rows, *shape), float32 on the CPU.

        Drawn for the whole batch, so the share does not depend on the number of processes.
        """
        digest = hashlib.sha256(f"{self.seed}/{self.step}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        drawn = torch.rand if uniform else torch.randn
        return drawn((self.whole, *shape), generator=generator)[self.share]


class Stage(Protocol):
    """What is trained: a module whose forward returns losses, `loss` being the one minimised."""

    module: nn.Module
    count: int

    def batch(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """The arguments of the module's forward for these rows."""
        ...

    def evaluate(self, device: torch.device) -> tuple[dict[str, float], Any]:
        """Figures of the module as it is now, and a picture (uint8 array) or None."""
        ...

    def export(self, folder: Path) -> None:
        """Write the module's networks into `folder`, which is there and empty."""
        ...


Report = Callable[[str, int, dict[str, float], Any], None]
"""(`step`, `kept`, `evaluating` before and `evaluation` after one, samples, figures, picture)."""


def rows_of(step: int, batch: int, count: int, seed: int) -> NDArray[np.int64]:
    """The rows of a step: epoch after epoch, each in an order of its own."""
    places = range(step * batch, (step + 1) * batch)
    rows = [_order(place // count, count, seed)[place % count] for place in places]
    return np.array(rows, dtype=np.int64)


@lru_cache(2)
def _order(epoch: int, count: int, seed: int) -> NDArray[np.int64]:
    """The rows of an epoch; two are kept, as a step may begin in one and end in the next."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def fixed(settings: Training, seed: int, identity: Mapping[str, object]) -> dict[str, Any]:
    """What must be the same when a training goes on, JSON-ready."""
    ignored = {*_MAY_CHANGE, *(key.removeprefix("train.") for key in rules_train.unread(settings))}
    kept = {k: v for k, v in content_key.plain(settings).items() if k not in ignored}
    return {**kept, "seed": seed, **identity}


def trained_rows(count: int, held_back: int) -> int:
    """How many of `count` rows are trained on; raises `UserError` if none are left."""
    if count <= held_back:
        raise UserError(
            "there are too few rows to train on", str(count),
            f"more than the {held_back} that are held back",
        )  # fmt: skip
    return count - held_back


def train(
    stage: Stage, settings: Training, seed: int, folder: Path, report: Report,
    identity: Mapping[str, object] | None = None, meter: Meter | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train until `settings.steps`, or `max_s`; returns the last figures.

    `identity`: what else must be the same when the training goes on; `meter`: told of each step.
    """
    accelerator = machine.accelerator(settings)
    with machine.one_order(accelerator.device):
        # Nothing keeps the trainer: `release` wants the distributed model gone.
        figures = Trainer(
            accelerator, stage, settings, seed, folder, report, identity or {}
        ).run(meter or Meter(settings))  # fmt: skip
    machine.release(accelerator)
    return figures


class Trainer:
    """A training as it stands after `done` steps, restored from its checkpoint if there is one.

    Raises `UserError` if the checkpoint was made with other settings.
    """

    def __init__(
        self, accelerator: Any, stage: Stage, settings: Training, seed: int, folder: Path,
        report: Report, identity: Mapping[str, object],
    ) -> None:  # fmt: skip
        self.accelerator, self.stage, self.settings = accelerator, stage, settings
        self.seed, self.folder, self.report = seed, folder, report
        self.module = stage.module.to(accelerator.device)
        machine.plain_attention(self.module, accelerator.device, settings.arithmetic)
        self.learning: list[Tensor] = [p for _, p in checkpoint.trained(self.module)]
        self.average = average.begun(self.module, settings.ema)
        self.kept = fixed(settings, seed, identity)
        optimizer = recipe.optimizer(self.module, settings)
        self.done = self.first = checkpoint.alike(self._restored(optimizer), folder)
        self.model, self.optimizer = accelerator.prepare(self.module, optimizer)
        self.began = self.saved = time.monotonic()
        self.figures: dict[str, float] = {}

    def _restored(self, optimizer: torch.optim.Optimizer) -> int:
        """How many steps are done already."""
        file = self.folder / FILE
        if self.settings.restart:
            if self.accelerator.is_main_process:
                file.unlink(missing_ok=True)  # killed before its first checkpoint, it would be back
        elif file.is_file():
            return checkpoint.load(file, self.module, self.average, optimizer, self.kept)
        return 0

    def run(self, meter: Meter) -> dict[str, float]:
        """Steps until `settings.steps`, or `max_s`; returns the last figures."""
        self.meter = meter
        meter.begin(self.module, self.accelerator.device, self.accelerator.num_processes)
        device = self.accelerator.device
        self.ahead = Ahead(
            lambda batch: self.stage.batch(batch, device), self._batches(),
            getattr(self.stage, "reads_ahead", False),
        )  # fmt: skip
        try:
            return self._steps()
        finally:
            self.ahead.close()

    def _steps(self) -> dict[str, float]:
        main, stop = self.accelerator.is_main_process, False
        if main and 0 < self.done >= self.settings.steps and not exported(self.folder):
            self.evaluate()
        while self.done < self.settings.steps and not stop:
            self.step()
            stop = self._out_of_time()
            if main:
                self.report("step", self.samples, self.figures, None)
                for follow in self.due(last=stop or self.done == self.settings.steps):
                    follow()
        return {"step": self.done, "resumed_at": self.first, **self.figures}

    @property
    def samples(self) -> int:
        """Samples seen so far, by all processes together."""
        return self.done * self.settings.batch

    def step(self) -> None:
        """One step of all processes; raises `SdxlError` if loss or gradients are not finite."""
        settings = self.settings
        lr = recipe.rate(self.done, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        began, waited = time.perf_counter(), 0.0
        parts: list[dict[str, Tensor]] = []
        for _ in range(settings.accumulate):
            asked = time.perf_counter()
            given = self.ahead.take()
            waited += time.perf_counter() - asked
            parts.append(self._backward(given, last=len(parts) + 1 == settings.accumulate))
        norm = recipe.clip(self.accelerator, self.learning, settings)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        average.follow(self.average, self.learning, settings.ema, self.done)
        values = machine.mean(self.accelerator, parts)  # which waits for the device
        self.meter.took(given, time.perf_counter() - began, waited)
        self.figures = {**values, "lr": lr, "grad_norm": float(norm)}
        self._check()

    def _check(self) -> None:
        """Raise `SdxlError` before weights that are no numbers any more can be written."""
        for name, what in (("loss", "loss"), ("grad_norm", "norm of the gradients")):
            if not math.isfinite(found := self.figures[name]):
                raise SdxlError(
                    f"the {what} of step {self.done} is not finite", str(found),
                    "a number; no checkpoint has been written since", recipe.slower(self.settings),
                )  # fmt: skip

    def _backward(self, given: dict[str, Any], last: bool) -> dict[str, Tensor]:
        """Losses of a part of the batch, their gradients added; the last part's processes meet."""
        alone = nullcontext() if last else self.accelerator.no_sync(self.model)
        with alone:
            with self.accelerator.autocast():
                losses: dict[str, Tensor] = self.model(**given)
            self.accelerator.backward(losses["loss"] / self.settings.accumulate)
        return losses

    def _batches(self) -> Iterator[Batch]:
        """The parts of this process's share of every step to come."""
        whole, parts = self.settings.batch, self.settings.accumulate
        rank = self.accelerator.process_index
        part = whole // (self.accelerator.num_processes * parts)
        for step in range(self.done, self.settings.steps):
            rows = rows_of(step, whole, self.stage.count, self.seed)
            for number in range(parts):
                start = (rank * parts + number) * part
                here = slice(start, start + part)
                yield Batch(step, rows[here], here, whole, self.seed)

    def _out_of_time(self) -> bool:
        """Whether `max_s` is over in any process."""
        limit = self.settings.max_s
        if limit is None:
            return False
        return machine.any_process(self.accelerator, time.monotonic() - self.began > limit)

    def due(self, last: bool) -> list[Callable[[], None]]:
        """What follows the step just done; after the last one, everything."""
        settings = self.settings
        waited = time.monotonic() - self.saved > settings.checkpoint_s
        reached = weights.due(self.done, settings.evaluate_every, settings.batch)
        wanted = {  # weights first: a checkpoint says that all before it is done
            self.keep: weights.due(self.done, settings.keep_every, settings.batch),
            self.checkpoint: last or waited,
            self.evaluate: last or reached,
        }
        return [follow for follow, now in wanted.items() if now]

    def keep(self) -> None:
        """Weights as they are evaluated, for `train.py evaluate=FOLDER`."""
        with Averaged(self.module, self.average), store.fullness_said(self.folder, AGAIN):
            weights.keep(self.folder, self.done, self.samples, self.stage.export)
        self.report("kept", self.samples, {}, None)

    def checkpoint(self) -> None:
        """Write all that the training needs to go on from here."""
        given = (self.module, self.average, self.optimizer, self.kept)
        with store.fullness_said(self.folder, AGAIN):
            checkpoint.save(self.folder / FILE, self.done, *given)
        self.saved = time.monotonic()

    def evaluate(self) -> None:
        """Figures and export of the averaged weights."""
        self.report("evaluating", self.samples, {}, None)
        with Averaged(self.module, self.average):
            found, picture = self.stage.evaluate(self.accelerator.device)
            with store.fullness_said(self.folder, AGAIN):
                put.whole(self.folder / "model", self.stage.export)
        self.report("evaluation", self.samples, found, picture)
        self.figures |= found


def exported(folder: Path) -> bool:
    """Whether `model` is of the checkpoint's weights: a training may end between the two."""
    written = [file.stat().st_mtime_ns for file in (folder / "model").rglob("*") if file.is_file()]
    return max(written, default=0) >= (folder / FILE).stat().st_mtime_ns
