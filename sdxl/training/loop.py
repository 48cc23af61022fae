"""The one training loop: every random number is a function of the step, so any run can go on.

The global batch, its noise and its order depend on the seed and the step alone; each process takes
its share. One process or several, unbroken or resumed: the losses are the same up to rounding.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sdxl.config.schema_train import Training
from sdxl.core.errors import SdxlError, UserError
from sdxl.training import checkpoint, machine

FILE = "checkpoint.safetensors"
_MAY_CHANGE = ("steps", "decay_share", "checkpoint_s", "evaluate_every", "max_s", "restart", "run")


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
"""(`step` or `evaluation`, samples seen, figures, picture)."""


def rows_of(step: int, batch: int, count: int, seed: int) -> NDArray[np.int64]:
    """The rows of a step: epoch after epoch, each in an order of its own."""
    places = np.arange(step * batch, (step + 1) * batch)
    orders = {
        epoch: np.random.default_rng([seed, epoch]).permutation(count)
        for epoch in np.unique(places // count)
    }
    return np.array([orders[p // count][p % count] for p in places], dtype=np.int64)


def fixed(settings: Training, seed: int, identity: dict[str, Any]) -> dict[str, Any]:
    """What must be the same when a training goes on, JSON-ready."""
    plain = {**vars(settings), "arithmetic": settings.arithmetic.value}
    return {**{k: v for k, v in plain.items() if k not in _MAY_CHANGE}, "seed": seed, **identity}


def trained_rows(count: int, held_back: int) -> int:
    """How many of `count` rows are trained on; raises `UserError` if none are left."""
    if count <= held_back:
        raise UserError(
            "there are too few rows to train on",
            str(count),
            f"more than the {held_back} that are held back",
        )
    return count - held_back


def rate(step: int, settings: Training) -> float:
    """The learning rate of a step: linear warm-up, constant, cosine to zero at the end."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    decay = settings.decay_share * settings.steps
    left = settings.steps - step
    fall = 0.5 - 0.5 * math.cos(math.pi * left / decay) if left < decay else 1.0
    return settings.lr * warm * fall


def train(
    stage: Stage, settings: Training, seed: int, folder: Path, report: Report,
    identity: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train until `settings.steps`, or `max_s`; returns the last figures.

    `identity`: what else must be the same when the training goes on.
    """
    accelerator = machine.accelerator(settings)
    with machine.one_order(accelerator.device):
        figures = _steps(accelerator, stage, settings, seed, folder, report, identity or {})
    machine.release(accelerator)
    return figures


def _steps(
    accelerator: Any,
    stage: Stage,
    settings: Training,
    seed: int,
    folder: Path,
    report: Report,
    identity: dict[str, Any],
) -> dict[str, Any]:
    device, rank = accelerator.device, accelerator.process_index
    share = settings.batch // accelerator.num_processes
    stage.module.to(device)
    average = {k: v.detach().clone() for k, v in stage.module.named_parameters()}
    groups = _groups(stage.module, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    kept = fixed(settings, seed, identity)
    file = folder / FILE
    first = 0
    if settings.restart:
        if accelerator.is_main_process:
            file.unlink(missing_ok=True)  # killed before its first checkpoint, it would come back
    elif file.is_file():
        first = checkpoint.load(file, stage.module, average, optimizer, kept)
    model, optimizer = accelerator.prepare(stage.module, optimizer)
    began = saved = time.monotonic()
    figures: dict[str, Any] = {}
    step = first

    def evaluate() -> dict[str, float]:
        with Averaged(stage.module, average):
            found, picture = stage.evaluate(device)
            _export(stage, folder / "model")
        report("evaluation", step * settings.batch, found, picture)
        return found

    if first and first >= settings.steps and accelerator.is_main_process and not _exported(folder):
        figures = evaluate()
    while step < settings.steps:
        batch = Batch(
            step,
            rows_of(step, settings.batch, stage.count, seed)[rank * share : (rank + 1) * share],
            slice(rank * share, (rank + 1) * share),
            settings.batch,
            seed,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate(step, settings)
        given = stage.batch(batch, device)
        with machine.attention(device):  # checkpointed blocks compute again on the way back
            with accelerator.autocast():
                losses = model(**given)
            accelerator.backward(losses["loss"])
        norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        _follow(average, stage.module, min(settings.ema, step / (step + 10)))
        values = machine.mean(accelerator, losses)
        if not math.isfinite(values["loss"]):
            raise SdxlError(f"the loss of step {step} is not finite", str(values["loss"]))
        samples = step * settings.batch
        figures = {**values, "lr": rate(step - 1, settings), "grad_norm": float(norm)}
        now = time.monotonic()
        stop = settings.max_s is not None and machine.any_process(
            accelerator, now - began > settings.max_s
        )
        if accelerator.is_main_process:
            report("step", samples, figures, None)
            last = step == settings.steps or stop
            if last or now - saved > settings.checkpoint_s:
                checkpoint.save(file, step, stage.module, average, optimizer, kept)
                saved = now
            if last or samples % settings.evaluate_every < settings.batch:
                figures |= evaluate()
        if stop:
            break
    return {"step": step, "resumed_at": first, **figures}


class Averaged:
    """While this lasts the module has the averaged weights."""

    def __init__(self, module: nn.Module, average: dict[str, Tensor]) -> None:
        self.module, self.average = module, average

    def __enter__(self) -> None:
        self._swap()
        self.module.eval()

    def __exit__(self, *_: object) -> None:
        self._swap()
        self.module.train()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.module.named_parameters():
            other = self.average[name]
            kept = parameter.detach().clone()
            parameter.copy_(other)
            other.copy_(kept)


@torch.no_grad()
def _follow(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    names, now = zip(*module.named_parameters(), strict=True)
    torch._foreach_lerp_([average[name] for name in names], [p.detach() for p in now], 1 - decay)


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; norms and biases do not."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _export(stage: Stage, folder: Path) -> None:
    """Put in place whole: who reads `folder` never finds half of a network."""
    beside, before = (
        folder.with_name(f".{folder.name}.{word}{os.getpid()}") for word in ("", "before.")
    )
    try:
        beside.mkdir(parents=True)
        stage.export(beside)
        if folder.is_dir():
            folder.replace(before)
        beside.replace(folder)
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _exported(folder: Path) -> bool:
    """Whether `model` is of the checkpoint's weights: a training may end between the two."""
    written = [file.stat().st_mtime_ns for file in (folder / "model").rglob("*") if file.is_file()]
    return max(written, default=0) >= (folder / FILE).stat().st_mtime_ns
