"""Norms, GEGLU and rounding against the memory's floor: bytes in and out, once each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from benchmarks.gpu import clock, data, ours
from benchmarks.gpu.child import Context
from benchmarks.gpu.data import NUMBERS, RANGE, SPREAD

HALF = 2
CONSUMERS = 3
"""q, k and v: one LayerNorm writes their codes side by side."""


@dataclass(frozen=True)
class Case:
    """A kernel and its shape: (rows, width), or (rows, size, channels) of images."""

    kind: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kind} {'x'.join(map(str, self.shape))}"


def cases(context: Context) -> Iterator[Case]:
    """All of them."""
    wanted = context.shapes
    for shape in wanted.norms:
        for kind in ("layer_norm 3", "layer_norm 1", "quantize", "geglu"):
            yield Case(kind, shape)
    for group in wanted.groups:
        yield Case("group_norm", group)
    yield Case("group_norm skip", wanted.groups[-1])


@dataclass(frozen=True)
class Runs:
    """Calls on rotating inputs and the bytes of one: our kernel, and PyTorch's own operations."""

    ours: list[clock.Run]
    moved: float
    eager: list[clock.Run]
    eager_moved: float


def times(context: Context, case: Case) -> dict[str, dict[str, Any]]:
    """Eager bf16, which writes no codes, beside our kernel in FP8 and INT8."""
    device = context.device
    generator = data.generator(device, 0)
    found: dict[str, dict[str, Any]] = {}
    for number, code in NUMBERS.items():
        per_unit = torch.tensor(RANGE[number] / SPREAD, device=device)
        runs = build(case, code, per_unit, device, generator)
        found[f"triton {number}"] = clock.candidate(runs.ours, device, moved=runs.moved)
        if number == "fp8":
            found["eager bf16"] = clock.candidate(runs.eager, device, moved=runs.eager_moved)
    return found


def build(
    case: Case, code: torch.dtype, per_unit: torch.Tensor, device: torch.device,
    generator: torch.Generator | None,
) -> Runs:  # fmt: skip
    """A case's calls; bytes are what each operation reads and writes at least, once."""
    if case.kind.startswith("group_norm"):
        return _groups(case, code, per_unit, device, generator)
    rows, width = case.shape
    count = rows * width
    wide = 2 if case.kind == "geglu" else 1
    given = [data.values((rows, wide * width), device, generator)
             for _ in range(clock.copies(HALF * wide * count, device))]  # fmt: skip
    gain, shift = (data.values((width,), device, generator) for _ in range(2))
    if case.kind == "quantize":
        runs = [partial(ours.quantize, each, per_unit, code) for each in given]
        return Runs(runs, count * (HALF + 1), [each.clone for each in given], count * 2 * HALF)
    if case.kind == "geglu":  # eager: the gate in and out, then two factors and their product
        return Runs([partial(ours.geglu, each, per_unit, code) for each in given],
                    count * (2 * HALF + 1), [partial(_geglu, each) for each in given],
                    count * 5 * HALF)  # fmt: skip
    parts = CONSUMERS if case.kind.endswith("3") else 1
    units = per_unit.expand(parts).contiguous()
    return Runs(
        [partial(ours.layer_norm, each, gain, shift, units, code) for each in given],
        count * (HALF + parts),
        [partial(functional.layer_norm, each, (width,), gain, shift) for each in given],
        count * 2 * HALF,
    )


def _groups(
    case: Case, code: torch.dtype, per_unit: torch.Tensor, device: torch.device,
    generator: torch.Generator | None,
) -> Runs:  # fmt: skip
    rows, size, channels = case.shape
    count = rows * size * size * channels
    skip = case.kind.endswith("skip")
    wide = 2 if skip else 1
    gain, shift = (data.values((wide * channels,), device, generator) for _ in range(2))
    shape = rows, size, size, channels
    sets = [tuple(data.values(shape, device, generator) for _ in range(2))
            for _ in range(clock.copies(HALF * count, device))]  # fmt: skip
    runs = [partial(ours.group_norm, image, gain, shift, per_unit, code, rest if skip else None)
            for image, rest in sets]  # fmt: skip
    eager = [partial(_group_norm, image, rest if skip else None, gain, shift)
             for image, rest in sets]  # fmt: skip
    # Moments first: a pass of reading besides the one that reads and writes codes. Eager: a copy
    # to NCHW, moments, the norm, SiLU; the skip is joined to the image by a copy before.
    passes = 7 + 2 * skip
    return Runs(runs, wide * count * (2 * HALF + 1), eager, wide * count * passes * HALF)


def _group_norm(
    image: torch.Tensor, skip: torch.Tensor | None, gain: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    whole = image if skip is None else torch.cat([image, skip], dim=-1)
    return functional.silu(functional.group_norm(whole.permute(0, 3, 1, 2), 32, gain, shift))


def _geglu(hidden: torch.Tensor) -> torch.Tensor:
    value, gate = hidden.chunk(2, dim=-1)
    return value * functional.gelu(gate)
