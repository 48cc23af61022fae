"""What a training runs on: processes, precision, compiler, the order in which sums are added."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import deterministic

from sdxl.choices import DType
from sdxl.errors import UserError
from sdxl.schema_train import Training


def accelerator(settings: Training) -> tuple[Any, torch.device]:
    """Processes, precision and compiler as the settings say; `UserError` without a C++ compiler."""
    from accelerate import Accelerator

    assert settings.arithmetic is not DType.fp16, "it needs loss scaling"
    mixed = "bf16" if settings.arithmetic is DType.bf16 else "no"
    compiler = "inductor" if settings.compile else "no"
    made = Accelerator(mixed_precision=mixed, dynamo_backend=compiler)
    cxx = os.environ.get("CXX", "g++")
    if settings.compile and made.device.type == "cpu" and not shutil.which(cxx):
        raise UserError(
            "torch.compile needs a C++ compiler", f"train.compile=true, no {cxx}",
            "g++, or another one that CXX names", "train.compile=false",
        )  # fmt: skip
    return made, made.device


@contextmanager
def one_order(device: torch.device) -> Iterator[None]:
    """On a CPU sums are added in one order; compiled, threads would add an embedding's gradient
    as they come, and no two trainings would be equal."""
    before = torch.are_deterministic_algorithms_enabled()
    memory: Any = deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    memory.fill_uninitialized_memory = filled and before
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled


def attention(device: torch.device) -> AbstractContextManager[None]:
    """Plain products on a CPU, where fused attention takes a quarter of a step to go back."""
    return nullcontext() if device.type != "cpu" else sdpa_kernel(SDPBackend.MATH)


def mean(accelerator: Any, losses: dict[str, Tensor]) -> dict[str, float]:
    """The losses over the whole batch."""
    names: Sequence[str] = sorted(losses)
    stacked = torch.stack([losses[name].detach().float() for name in names])
    return dict(zip(names, accelerator.reduce(stacked, "mean").tolist(), strict=True))


def any_process(accelerator: Any, here: bool) -> bool:
    """Whether it is so in any process: all of them stop after the same step."""
    return bool(accelerator.reduce(torch.tensor(float(here), device=accelerator.device), "max"))
