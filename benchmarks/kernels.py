"""SDXL's dominant products and attention on this GPU: Triton and cuBLAS in 8 beside 16 bits.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --rows 64 --only linear

Shapes are those of 1024 x 1024 pictures with `--rows` UNet rows (two per picture with guidance).
The first line is the copy bandwidth that memory-bound work can reach. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

LINEAR = (
    (1024, 1280, 10240), (1024, 1280, 1280), (1024, 5120, 1280), (4096, 640, 5120),
    (4096, 640, 640), (4096, 2560, 640), (1024, 1280, 3840),
)  # fmt: skip
"""(tokens of a row, K, N)."""

CONV = ((32, 1280, 1280), (128, 320, 320), (64, 640, 640))
"""(size, channels in, channels out) of 3 x 3 convolutions."""

ATTENTION = ((10, 4096, 4096), (20, 1024, 1024), (10, 4096, 77), (20, 1024, 77))
"""(heads of 64, queries, keys)."""


def timed(run: Callable[[], object]) -> float:
    """Milliseconds, or NaN where the shape is not supported."""
    from triton.testing import do_bench

    try:
        return float(do_bench(run, warmup=10, rep=50))
    except RuntimeError as error:
        print(f"# {error}", file=sys.stderr)
        return float("nan")


def row(name: str, flop: float, times: dict[str, float]) -> None:
    print(json.dumps({
        "shape": name,
        **{k: {"ms": round(ms, 4), "tflops": round(flop / ms / 1e9, 1)} for k, ms in times.items()},
    }), flush=True)  # fmt: skip


def linear(rows: int, width: int, outputs: int, where: torch.device) -> None:
    from sdxl.backends.torch.kernels import gemm, tiles, tuning

    half = {"device": where, "dtype": torch.bfloat16}
    left, right = torch.randn(rows, width, **half), torch.randn(outputs, width, **half)
    scale = torch.rand(outputs, device=where)
    times = {"bf16": timed(lambda: functional.linear(left, right))}
    one = torch.ones((), device=where)
    for name, a, b in (
        ("int8", (left * 30).to(torch.int8), (right * 30).to(torch.int8)),
        ("fp8", left.to(torch.float8_e4m3fn), right.to(torch.float8_e4m3fn)),
    ):

        def run(tile: tiles.Tile, a: Any = a, b: Any = b) -> torch.Tensor:
            return gemm.gemm(a, b, scale, None, None, torch.bfloat16, tile)

        tile, found = tuning.tune(run, tiles.PLAIN)
        times[f"triton {name} {tile.BM}x{tile.BN}x{tile.BK}"] = min(found.values())
        if name == "fp8":
            times["_scaled_mm"] = timed(
                lambda a=a, b=b: torch._scaled_mm(
                    a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16,
                    use_fast_accum=True,
                )
            )  # fmt: skip
        else:
            times["_int_mm"] = timed(lambda a=a, b=b: torch._int_mm(a, b.t()))
    row(f"linear {rows}x{width}x{outputs}", 2.0 * rows * width * outputs, times)


def convolution(count: int, size: int, inner: int, outer: int, where: torch.device) -> None:
    from sdxl.backends.torch.kernels import conv, tiles, tuning

    half = {"device": where, "dtype": torch.bfloat16}
    image = torch.randn(count, inner, size, size, **half).to(memory_format=torch.channels_last)
    weight = torch.randn(outer, inner, 3, 3, **half).to(memory_format=torch.channels_last)
    scale = torch.rand(outer, device=where)
    times = {"bf16": timed(lambda: functional.conv2d(image, weight, padding=1))}
    for name, kind in (("int8", torch.int8), ("fp8", torch.float8_e4m3fn)):
        a = (image * 30).to(kind).permute(0, 2, 3, 1)
        b = (weight * 30).to(kind).permute(0, 2, 3, 1).contiguous()

        def run(tile: tiles.Tile, a: Any = a, b: Any = b) -> torch.Tensor:
            return conv.conv(a, b, scale, None, None, 1, 1, torch.bfloat16, tile)

        tile, found = tuning.tune(run, tiles.CONV)
        times[f"triton {name} {tile.BM}x{tile.BN}x{tile.BK}"] = min(found.values())
    row(
        f"conv {count}x{size}x{size}x{inner}->{outer}",
        18.0 * count * size**2 * inner * outer,
        times,
    )


def attend(count: int, heads: int, length: int, keys: int, where: torch.device) -> None:
    from sdxl.backends.torch.kernels import attention, tiles, tuning

    half = {"device": where, "dtype": torch.bfloat16}
    query, key, value = (torch.randn(count, n, heads, 64, **half) for n in (length, keys, keys))
    plain = [each.transpose(1, 2) for each in (query, key, value)]
    q, k, v = (each.mul(60).to(torch.float8_e4m3fn) for each in (query, key, value))

    def run(tile: tiles.Tile) -> torch.Tensor:
        return attention.attention(q, k, v, (0.01,) * 3, 0.125, 448.0, torch.bfloat16, tile)

    tile, found = tuning.tune(run, tiles.ATTENTION)
    times = {
        "bf16": timed(lambda: functional.scaled_dot_product_attention(*plain)),
        f"triton fp8 {tile.BM}x{tile.BN}": min(found.values()),
    }
    flop = 4.0 * count * heads * length * keys * 64  # the second look at the keys is not counted
    row(f"attention {count}x{heads}x{length}x{keys}x64", flop, times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--only", choices=("linear", "conv", "attention"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device here: these figures exist on a GPU only")
    where = torch.device("cuda")
    source = torch.empty(1 << 30, dtype=torch.uint8, device=where)
    target = torch.empty_like(source)
    ms = timed(lambda: target.copy_(source))
    print(json.dumps({
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "copy_tb_per_s": round(2 * source.numel() / ms / 1e9, 3),
    }), flush=True)  # fmt: skip
    if arguments.only in (None, "linear"):
        for tokens, width, outputs in LINEAR:
            linear(arguments.rows * tokens, width, outputs, where)
    if arguments.only in (None, "conv"):
        for size, inner, outer in CONV:
            convolution(arguments.rows, size, inner, outer, where)
    if arguments.only in (None, "attention"):
        for heads, length, keys in ATTENTION:
            attend(arguments.rows, heads, length, keys, where)


if __name__ == "__main__":
    main()
