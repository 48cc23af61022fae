"""Every kernel against fp64 on one real shape, into outputs that held nothing but poison.

Products are exact sums of codes in fp64, norms are computed in fp64. Fresh random inputs; where a
kernel writes codes the share of equal ones counts (the rest are ties and what bf16 rounds before).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from benchmarks.gpu import clock, data, ours
from benchmarks.gpu.child import Context
from benchmarks.gpu.data import MODEL, NUMBERS, RANGE, SPREAD
from benchmarks.gpu.shapes import Convolution, Linear
from sdxl.backends.torch.kernels import reference

Tensor = torch.Tensor

MOST_ERROR = 4e-3
"""||out - reference|| / ||reference|| of what is rounded to bf16 once (2^-9 of each value)."""
MOST_ERROR_FP8 = 2e-2
"""Of FP8 attention, whose probabilities become codes: a code on the other side of a tie."""
LEAST_EQUAL = 0.98
"""Share of codes that must be the reference's own."""
FP8_STEP = 2**-14 / 32
"""What a Hopper FP8 product may lose for each element of its depth: its accumulator keeps 13 bits
of fraction, cut off and not rounded, at every 32 products, so half of 2^-13 each time."""
CODE_APART = 2**-4
"""E4M3 codes are at least this share of their value apart: of values that are off by less a share
of error / CODE_APART has another code."""

ROWS = 4

LAUNCHED = {"ok": True, "launched": True}
"""Of a kernel that had no memory to write into (`launches.py`)."""


def run(context: Context, number: str) -> dict[str, Any]:
    """One line per kernel of a number format; a kernel that raises does not stop the others."""
    found: dict[str, Any] = {}
    for name, check in cases(context, number):
        try:
            with poisoned(), torch.inference_mode():
                found[name] = check()
        except Exception as error:  # of a compiler or a launch: the text is what is wanted
            found[name] = {"ok": False, "error": clock.told(error)}
        print(f"{name}: {found[name]}", flush=True)
        context.note(kernels=found)
        clock.alive(context.device)  # an error of a launch belongs to its kernel
    wrong = [name for name, each in found.items() if not each["ok"]]
    told = f"{len(found) - len(wrong)} of {len(found)} kernels right"
    return {"wrong": wrong, "line": told + (f"; wrong: {', '.join(wrong)}" if wrong else "")}


@contextmanager
def poisoned() -> Iterator[None]:
    """`torch.empty` gives memory full of 0xFF: NaN in every float, -1 in int8."""
    plain, like = torch.empty, torch.empty_like

    def fill(made: Tensor) -> Tensor:
        if made.device.type != "meta":
            made.untyped_storage().fill_(255)
        return made

    def empty(*args: Any, **words: Any) -> Tensor:
        return fill(plain(*args, **words))

    def empty_like(*args: Any, **words: Any) -> Tensor:
        return fill(like(*args, **words))

    torch.empty, torch.empty_like = empty, empty_like
    try:
        yield
    finally:
        torch.empty, torch.empty_like = plain, like


def cases(context: Context, number: str) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and check of each, cheap ones first."""
    small, device = context.rehearse, context.device
    wide, narrow = (64, 32) if small else (1280, 1280)
    tokens, size = (8, 5) if small else (ROWS * 1024, 32)
    make = partial(_Elementwise, number, device)
    yield f"quantize {number}", partial(make().quantize, tokens, wide)
    yield f"geglu {number}", partial(make().geglu, tokens, wide)
    yield f"layer_norm {number}", partial(make().layer_norm, tokens, wide)
    for skip in (False, True):
        name = f"group_norm {'with skip ' if skip else ''}{number}"
        yield name, partial(make().group_norm, 1 if small else ROWS, size, wide, skip)
    shapes = [Linear("", tokens, wide, narrow, after) for after in ("bias", "residual")]
    shapes.append(Linear("", tokens, wide, 2 * narrow if small else 10240, "geglu"))
    for shape in shapes:
        yield f"gemm {shape.after} {number}", partial(_linear, shape, number, device)
    images = Convolution(1 if small else ROWS, size, narrow, narrow)
    yield f"conv {number}", partial(_convolution, images, number, device)
    if number != "fp8":
        return
    yield "euler", partial(_euler, device, 6 if small else 128)
    for after in ("bias", "columns"):
        shape = Linear("", 32 if small else tokens, wide, narrow, after)
        yield f"scaled_mm {after}", partial(_scaled_mm, shape, device)
    for keys in (7, 20) if small else (77, 1024):
        yield f"attention {keys} keys", partial(_attention, device, keys, small)


def _near(found: Tensor, expected: Tensor, most: float = MOST_ERROR) -> dict[str, Any]:
    """Relative error of values in the 2-norm; NaN never passes."""
    if found.is_meta:
        return LAUNCHED
    found, expected = found.double(), expected.double()
    error = float((found - expected).norm() / expected.norm())
    worst = float((found - expected).abs().max() / expected.abs().max())
    ok = error <= most and bool(found.isfinite().all())
    return {"ok": ok, "error_2norm": error, "most": most, "worst": worst}


def lost(depth: int, number: str) -> float:
    """Relative error that a product of this depth may have beside fp64, before it is rounded."""
    return depth * FP8_STEP if number == "fp8" else 0.0


def _equal(found: Tensor, expected: Tensor, error: float = 0.0) -> dict[str, Any]:
    """Share of equal codes, and how far the others are, in values of codes."""
    if found.is_meta:
        return LAUNCHED
    one, other = found.float(), expected.float()
    share = float((one == other).double().mean())
    worst = float((one - other).abs().max()) if bool(one.isfinite().all()) else float("nan")
    near = worst <= max(1.0, float(other.abs().max()) / 8)
    least = LEAST_EQUAL - error / CODE_APART
    return {"ok": share >= least and near, "equal": share, "least": least, "worst": worst}


class _Elementwise:
    """Norms, GEGLU and rounding: bf16 in, codes out."""

    def __init__(self, number: str, device: torch.device) -> None:
        self.number, self.code, self.device = number, NUMBERS[number], device
        self.generator = data.generator(device, 6)
        self.per_unit = torch.tensor(RANGE[number] / SPREAD, device=device)

    def _values(self, *shape: int) -> Tensor:
        return data.values(shape, self.device, self.generator)

    def _codes(self, values: Tensor) -> Tensor:
        return reference.quantize(values.to(MODEL), None, self.per_unit, self.code)

    def quantize(self, rows: int, width: int) -> dict[str, Any]:
        given = self._values(rows, width)
        return _equal(ours.quantize(given, self.per_unit, self.code), self._codes(given))

    def geglu(self, rows: int, width: int) -> dict[str, Any]:
        given = self._values(rows, 2 * width)
        value, gate = given.double().chunk(2, dim=-1)
        active = functional.gelu(gate).to(MODEL).double()
        found = ours.geglu(given, self.per_unit, self.code)
        return _equal(found, self._codes(value * active))

    def layer_norm(self, rows: int, width: int) -> dict[str, Any]:
        given, gain, shift = self._values(rows, width), self._values(width), self._values(width)
        normed = functional.layer_norm(
            given.double(), (width,), gain.double(), shift.double(), 1e-5
        )
        found = ours.layer_norm(given, gain, shift, self.per_unit.expand(3).contiguous(), self.code)
        return _equal(found, torch.stack([self._codes(normed)] * 3))

    def group_norm(self, rows: int, size: int, channels: int, skip: bool) -> dict[str, Any]:
        image = self._values(rows, size, size, channels)
        rest = self._values(rows, size, size, channels) if skip else None
        whole = image if rest is None else torch.cat([image, rest], dim=-1)
        gain, shift = (self._values(whole.shape[-1]) for _ in range(2))
        planes = whole.permute(0, 3, 1, 2).double()
        normed = functional.group_norm(planes, 32, gain.double(), shift.double(), 1e-5)
        active = functional.silu(normed.to(MODEL).double()).permute(0, 2, 3, 1)
        found = ours.group_norm(image, gain, shift, self.per_unit, self.code, rest)
        return _equal(found, self._codes(active))


def _linear(shape: Linear, number: str, device: torch.device) -> dict[str, Any]:
    given = data.linear(shape, number, device, seed=1)
    error = lost(shape.width, number)
    if shape.after == "geglu":
        turned = ours.paired(given)
        expected = reference.gemm_geglu(
            given.left, given.right, given.scale, given.bias, None, given.per_unit, MODEL
        )
        return _worst(
            lambda tile: _equal(ours.product_geglu(turned, tile), expected, error), "geglu"
        )
    rest = given.residual if shape.after == "residual" else None
    expected = reference.gemm(given.left, given.right, given.scale, given.bias, rest, MODEL)
    most = MOST_ERROR + error
    return _worst(lambda tile: _near(ours.product(given, tile, rest is not None), expected, most))


def _worst(check: Callable[[Any], dict[str, Any]], kind: str = "plain") -> dict[str, Any]:
    """One tile of either way of copying: what each gave, right if both are."""
    found = {}
    for tile in ours.few(kind):
        try:
            found[str(tile)] = check(tile)
        except Exception as error:  # of a compiler or a launch
            found[str(tile)] = {"ok": False, "error": clock.told(error)}
    return {"ok": all(each["ok"] for each in found.values()), **found}


def _convolution(shape: Convolution, number: str, device: torch.device) -> dict[str, Any]:
    given = data.convolution(shape, number, device, seed=2)
    expected = reference.conv(
        given.left, given.right, given.scale, given.bias, given.residual, 1, 1, MODEL
    )
    framed = ours.framed(given)
    most = MOST_ERROR + lost(9 * shape.inner, number)
    return _worst(lambda tile: _near(ours.convolution(framed, tile), expected, most), "conv")


def _attention(device: torch.device, keys: int, small: bool) -> dict[str, Any]:
    generator = data.generator(device, 3)
    length, heads, width = (20, 2, 32) if small else (1024, 20, 64)
    query, key, value = (
        data.codes((2, n, heads, width), "fp8", device, generator) for n in (length, keys, keys)
    )
    unit, per_unit = SPREAD / RANGE["fp8"], RANGE["fp8"]
    scale = width**-0.5
    expected = reference.attention(query, key, value, (unit,) * 3, scale, per_unit, MODEL)
    return _worst(
        lambda tile: _near(
            ours.attention(query, key, value, unit, per_unit, tile), expected, MOST_ERROR_FP8
        ),
        "attention",
    )


def _scaled_mm(shape: Linear, device: torch.device) -> dict[str, Any]:
    from benchmarks.gpu.candidates import scaled_mm

    given = data.linear(shape, "fp8", device, seed=4)
    by_row = shape.after == "columns"
    scale = given.scale if by_row else given.left_scale * given.right_scale[0]
    expected = reference.gemm(
        given.left, given.right, torch.zeros_like(given.scale) + scale, given.bias, None, MODEL
    )
    return _near(scaled_mm(given, by_row), expected, MOST_ERROR + lost(shape.width, "fp8"))


def _euler(device: torch.device, size: int) -> dict[str, Any]:
    generator = data.generator(device, 5)
    shape = (2, 4, size, size)
    latents = torch.randn(shape, device=device, generator=generator)
    predicted = data.values((4, *shape[1:]), device, generator)
    sigma, after = torch.tensor(3.0, device=device), torch.tensor(2.0, device=device)
    moved, given = reference.euler_step(
        latents.double(), predicted, 8.0, sigma.double(), after.double()
    )
    out = torch.empty_like(predicted)
    ours.euler(latents, predicted, 8.0, sigma, after, out)
    first, second = _near(latents, moved, 1e-5), _near(out, given)
    return {"ok": first["ok"] and second["ok"], "latents": first, "next_input": second}
