"""What is fastest for each shape of SDXL, each candidate with the epilogue that a run needs.

Replays of a graph over rotating random inputs; what a candidate cannot do is kept as its error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu import clock, data, ours
from benchmarks.gpu.child import Context
from benchmarks.gpu.data import MODEL, NUMBERS, RANGE, SPREAD, Product
from benchmarks.gpu.shapes import Convolution, Heads, Linear

Tensor = torch.Tensor
Times = dict[str, dict[str, Any]]

KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def scaled_mm(given: Product, by_row: bool, bias: bool = True) -> Tensor:
    """cuBLAS' FP8 product: one scale for each factor, or one for each row and column."""
    if by_row:
        left, right = given.row_scale, given.column_scale
    else:
        left, right = given.left_scale, given.right_scale[0]
    return torch._scaled_mm(
        given.left, given.right.t(), scale_a=left, scale_b=right,
        bias=given.bias if bias else None, out_dtype=MODEL, use_fast_accum=given.left.is_cuda,
    )  # fmt: skip


def linear(context: Context) -> dict[str, Any]:
    """Every product in FP8 and INT8 beside bf16."""
    return _each(context, "linear", context.shapes.linear, _linear)


def convolution(context: Context) -> dict[str, Any]:
    """Every convolution in FP8 and INT8 beside cuDNN's in bf16."""
    return _each(context, "conv", context.shapes.conv, _convolution)


def attention(context: Context) -> dict[str, Any]:
    """Every attention in bf16 and FP8."""
    return _each(context, "attention", context.shapes.heads, _attention)


def norms(context: Context) -> dict[str, Any]:
    """Elementwise kernels: bytes moved at least, over milliseconds."""
    from benchmarks.gpu import elementwise

    return _each(context, "norms", elementwise.cases(context), elementwise.times)


def _each(
    context: Context, name: str, wanted: Any, run: Callable[[Context, Any], Times]
) -> dict[str, Any]:
    """Candidates of each shape, noted as they come, and a line with the fastest."""
    found: dict[str, Times] = {}
    for shape in wanted:
        key = str(shape)
        with torch.inference_mode():
            found[key] = run(context, shape)
        print(f"{key}: {_short(found[key])}", flush=True)
        context.note(**{name: found})
    return {"line": "; ".join(f"{key}: {_short(times)}" for key, times in found.items())}


def _short(times: Times) -> str:
    best = clock.fastest(times)
    if not best:
        return "nothing works"
    told = times[best]
    rate = f"{told['tflops']} TFLOP/s" if "tflops" in told else f"{told.get('tb_per_s')} TB/s"
    return f"{best} {told['ms']} ms {rate}"


def _sets(context: Context, make: Callable[[int], Any]) -> list[Any]:
    """Enough sets of inputs that none is found in the cache."""
    first = make(0)
    parts = [each for each in vars(first).values() if isinstance(each, Tensor)]
    count = clock.copies(data.bytes_of(*parts), context.device)
    return [first, *(make(seed) for seed in range(1, count))]


def _linear(context: Context, shape: Linear) -> Times:
    device, flop = context.device, 2.0 * shape.rows * shape.width * shape.outputs
    timed = partial(clock.candidate, device=device, flop=flop)
    times: Times = {}
    for number in NUMBERS:
        sets = _sets(context, lambda seed, n=number: data.linear(shape, n, device, seed))
        if number == "fp8":
            times["bf16"] = timed([partial(_bf16_linear, *_wide(s), s, shape.after) for s in sets])
            for by_row in (False, True):
                name = f"scaled_mm by {'row' if by_row else 'tensor'}"
                if by_row or shape.after != "columns":
                    times[name] = timed([partial(_cublas, s, by_row, shape.after) for s in sets])
        else:
            times["int_mm, no epilogue"] = timed(
                [partial(torch._int_mm, s.left, s.right.t()) for s in sets]
            )
        geglu = shape.after == "geglu"
        turned = [ours.paired(s) for s in sets] if geglu else sets
        for tile in ours.tiles("geglu" if geglu else "plain"):
            name = f"triton {number} {tile}"
            times[name] = timed([partial(_triton, s, tile, shape.after) for s in turned])
        if geglu:  # the product and what follows it, one after the other
            for tile in ours.tiles("plain"):
                name = f"triton {number} apart {tile}"
                times[name] = timed([partial(_apart, s, tile) for s in sets])
    return times


def _wide(given: Product) -> tuple[Tensor, Tensor]:
    left = (given.left.float() * given.left_scale).to(MODEL)
    return left, (given.right.float() * given.right_scale[:, None]).to(MODEL)


def _bf16_linear(left: Tensor, right: Tensor, given: Product, after: str) -> Tensor:
    found = functional.linear(left, right, given.bias)
    if after == "geglu":
        value, gate = found.chunk(2, dim=-1)
        return value * functional.gelu(gate)
    return found.add_(given.residual) if after == "residual" else found


def _cublas(given: Product, by_row: bool, after: str) -> Tensor:
    found = scaled_mm(given, by_row)
    if after == "geglu":
        return ours.geglu(found, given.per_unit, given.left.dtype)
    return found.add_(given.residual) if after == "residual" else found


def _triton(given: Product, tile: Any, after: str) -> Tensor:
    if after == "geglu":
        return ours.product_geglu(given, tile)
    return ours.product(given, tile, after == "residual")


def _apart(given: Product, tile: Any) -> Tensor:
    return ours.geglu(ours.product(given, tile, False), given.per_unit, given.left.dtype)


def _convolution(context: Context, shape: Convolution) -> Times:
    device = context.device
    pixels = shape.rows * shape.size**2
    timed = partial(clock.candidate, device=device, flop=18.0 * pixels * shape.inner * shape.outer)
    times: Times = {}
    for number in NUMBERS:
        sets = _sets(context, lambda seed, n=number: data.convolution(shape, n, device, seed))
        if number == "fp8":
            wide = [(s.left.to(MODEL).permute(0, 3, 1, 2), s.right.to(MODEL).permute(0, 3, 1, 2),
                     s.bias, s.residual.permute(0, 3, 1, 2)) for s in sets]  # fmt: skip
            for search in (False, True):
                torch.backends.cudnn.benchmark = search
                name = f"cudnn bf16{' searched' if search else ''} + residual"
                times[name] = timed([partial(_bf16_conv, *each) for each in wide])
            torch.backends.cudnn.benchmark = False
        framed = [ours.framed(s) for s in sets]
        for tile in ours.tiles("conv"):
            name = f"triton {number} {tile}"
            times[name] = timed([partial(ours.convolution, s, tile) for s in framed])
    return times


def _bf16_conv(image: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return functional.conv2d(image, weight, bias, padding=1).add_(residual)


def _attention(context: Context, shape: Heads) -> Times:
    from sdxl.backends.torch import fa3

    device = context.device
    flop = 4.0 * shape.rows * shape.heads * shape.length * shape.keys * shape.width
    timed = partial(clock.candidate, device=device, flop=flop)
    generator = data.generator(device, 0)
    sizes = [(shape.rows, n, shape.heads, shape.width)
             for n in (shape.length, shape.keys, shape.keys)]  # fmt: skip
    wide = [data.values(size, device, generator) for size in sizes]
    turned = [each.transpose(1, 2) for each in wide]
    times = {name: timed([partial(_sdpa, *turned, kernel)]) for name, kernel in KERNELS.items()}
    per_unit = torch.tensor(RANGE["fp8"] / SPREAD, device=device)
    if reason := fa3.why_not(device):
        times["fa3"] = {"error": reason}
    else:
        times["fa3 bf16"] = timed([partial(fa3.attend, *turned)])
        scale = torch.full((shape.rows, shape.heads), SPREAD / RANGE["fp8"], device=device)
        times["fa3 fp8"] = timed([lambda: _fa3_fp8(*_rounded(wide, per_unit), scale)])
    for tile in ours.tiles("attention"):
        run = partial(_triton_attention, wide, per_unit, tile)
        times[f"triton fp8 {tile}"] = timed([run])
    return times


def _rounded(wide: list[Tensor], per_unit: Tensor) -> list[Tensor]:
    """Codes of query, key and value, which a run makes of what the projections wrote."""
    code = NUMBERS["fp8"]
    return [ours.quantize(each.flatten(0, 1).flatten(1), per_unit, code).view(each.shape)
            for each in wide]  # fmt: skip


def _triton_attention(wide: list[Tensor], per_unit: Tensor, tile: Any) -> Tensor:
    unit = SPREAD / RANGE["fp8"]
    return ours.attention(*_rounded(wide, per_unit), unit, RANGE["fp8"], tile)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, kernel: SDPBackend) -> Tensor:
    with sdpa_kernel(kernel):
        return functional.scaled_dot_product_attention(query, key, value)


def _fa3_fp8(query: Tensor, key: Tensor, value: Tensor, unit: Tensor) -> Tensor:
    """From E4M3 codes; its softmax is not rounded as the simulated layer's is."""
    from sdxl.backends.torch import fa3

    units = {"q_descale": unit, "k_descale": unit, "v_descale": unit}
    scale = query.shape[-1] ** -0.5
    return fa3.op()(query, key, value, softmax_scale=scale, num_splits=1, **units)[0]
