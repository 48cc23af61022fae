"""Compile every Triton kernel for GPUs that are not here, and print what their machine code says.

    python benchmarks/compile_kernels.py
    python benchmarks/compile_kernels.py --target 90 --only gemm conv --json kernels.json
    python benchmarks/compile_kernels.py --representative
    TRITON_CACHE_DIR=CACHE python benchmarks/compile_kernels.py --session --target 90
    python benchmarks/compile_kernels.py --session --target 90 --list

Every variant with every tile of its own list, FP8 and INT8, in the shapes of 1024 x 1024 pictures
with 16 rows of the UNet. sm_80 has no FP8. Needs Triton and no GPU; `--representative` is what
`make test` compiles. `--session`: instead what the measuring session launches, each kernel with
the constants and the divisibility by which Triton keeps it apart; `--list` compiles nothing. Ends
with 1 if a kernel does not compile, spills more than 32 registers, or asks for more shared memory
than its target has.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"  # before triton
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # as Triton 3.6 has it
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import triton  # noqa: E402

from benchmarks._compiled import Compiler, meta  # noqa: E402
from sdxl.backends.torch.kernels import attention, conv, euler, gemm, group_norm, quantize, tiles  # noqa: E402
from sdxl.backends.torch.kernels.words import short  # noqa: E402

TARGETS = (80, 89, 90, 100)
NUMBERS = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
ROWS, WIDTH, PIXELS, CHANNELS = 16384, 1280, 128, 320


@dataclass(frozen=True)
class Case:
    """One call of a wrapper; `elements`: of its output, where instructions per element say much."""

    kernel: str
    variant: str
    number: str
    tile: tiles.Tile | None
    run: Callable[[], object]
    elements: int | None = None


def cases(number: str, target: int) -> Iterator[Case]:
    """All of them, for codes of a number format."""
    yield from _elementwise(number)
    yield from _products(number, target)
    yield from _convolutions(number, target)
    if number == "fp8":
        yield from _attention(target)


def _scalars(*shape: int) -> torch.Tensor:
    return meta(*shape, dtype=torch.float32)


def _elementwise(number: str) -> Iterator[Case]:
    codes, unit = NUMBERS[number], _scalars()
    values, wide, gain = meta(ROWS, WIDTH), meta(ROWS, 2 * WIDTH), meta(WIDTH)
    size = values.numel()
    for variant, factors in (("plain", None), ("smooth", meta(WIDTH))):
        run = partial(quantize.quantize, values, factors, unit, codes)
        yield Case("quantize", variant, number, None, run, size)
        run = partial(quantize.geglu_quantize, wide, factors, unit, codes)
        yield Case("geglu_quantize", variant, number, None, run, size)
    for parts, smooth in ((1, False), (3, False), (3, True)):
        many = meta(parts, WIDTH) if smooth else None
        run = partial(quantize.layer_norm_quantize, values, gain, gain, 1e-5, many,
                      _scalars(parts), codes)  # fmt: skip
        yield Case("layer_norm", f"{parts} consumers{' smooth' * smooth}", number, None, run, size)
    image = meta(16, PIXELS, PIXELS, CHANNELS)
    for variant, times, options in (
        ("plain", 1, {}), ("skip", 2, {"skip": image}), ("frame", 1, {"frame": True}),
        ("frame added", 1, {"frame": True, "added": meta(16, CHANNELS)}),
        ("frame skip", 2, {"frame": True, "skip": image}), ("no silu", 1, {"activate": False}),
    ):  # fmt: skip
        gain = meta(times * CHANNELS)
        run = partial(group_norm.group_norm_quantize, image, 32, gain, gain, 1e-5, unit, codes,
                      **options)  # fmt: skip
        yield Case("group_norm", variant, number, None, run, image.numel() * times)
    if number == "fp8":
        latents = _scalars(8, 4, 128, 128)
        for variant, times in (("guided", 2), ("plain", 1)):
            given = meta(8 * times, 4, 128, 128)
            run = partial(euler.euler_step, latents, given, 8.0, unit, unit, given)
            yield Case("euler", variant, number, None, run, latents.numel())


def _products(number: str, target: int) -> Iterator[Case]:
    codes = NUMBERS[number]
    left, right = meta(ROWS, WIDTH, dtype=codes), meta(WIDTH, WIDTH, dtype=codes)
    scale, bias, rest = _scalars(WIDTH), meta(WIDTH), meta(ROWS, WIDTH)
    for variant, added, residual in (
        ("bare", None, None), ("bias", bias, None), ("residual", bias, rest),
    ):  # fmt: skip
        for tile in tiles.fitting(tiles.PLAIN, target):
            run = partial(gemm.gemm, left, right, scale, added, residual, torch.bfloat16, tile)
            yield Case("gemm", variant, number, tile, run)
    wide, scale, bias = meta(8 * WIDTH, WIDTH, dtype=codes), _scalars(8 * WIDTH), meta(8 * WIDTH)
    for variant, factors in (("geglu", None), ("geglu smooth", meta(4 * WIDTH))):
        for tile in tiles.fitting(tiles.GEGLU, target):
            run = partial(gemm.gemm_geglu, left, wide, scale, bias, factors, _scalars(),
                          torch.bfloat16, tile)  # fmt: skip
            yield Case("gemm", variant, number, tile, run)


def _convolutions(number: str, target: int) -> Iterator[Case]:
    codes = NUMBERS[number]
    scale, bias, rest = _scalars(WIDTH), meta(WIDTH), meta(16, 32, 32, WIDTH)
    weight = meta(WIDTH, 3, 3, WIDTH, dtype=codes)
    image = meta(16, 33, 33, WIDTH, dtype=codes)
    for variant, residual in (("framed", None), ("framed residual", rest)):
        for tile in tiles.fitting(tiles.CONV, target):
            run = partial(conv.framed_conv, image, weight, scale, bias, residual, torch.bfloat16,
                          tile)  # fmt: skip
            yield Case("conv", variant, number, tile, run)
    image = meta(16, 64, 64, WIDTH, dtype=codes)
    for tile in tiles.fitting(tiles.GATHERED, target):
        run = partial(conv.conv, image, weight, scale, bias, None, 2, 1, torch.bfloat16, tile)
        yield Case("conv", "stride 2", number, tile, run)


def _attention(target: int) -> Iterator[Case]:
    query = meta(16, 1024, 20, 64, dtype=NUMBERS["fp8"])
    for tile in tiles.fitting(tiles.ATTENTION, target):
        run = partial(attention.attention, query, query, query, (0.01,) * 3, 0.125, 448.0,
                      torch.bfloat16, tile)  # fmt: skip
        yield Case("attention", "", "fp8", tile, run)


FEW = {
    (90, "fp8"): {
        "quantize": ("plain",), "geglu_quantize": ("plain",), "layer_norm": ("1 consumers",),
        "group_norm": ("frame added", "frame skip"), "euler": ("guided",), "attention": ("",),
        "gemm": ("residual", "geglu"), "conv": ("framed residual", "stride 2"),
    },
    (90, "int8"): {"quantize": ("plain",), "gemm": ("geglu",)},
    (80, "int8"): {"quantize": ("plain",), "gemm": ("residual", "geglu"),
                   "conv": ("framed residual",)},
    (89, "fp8"): {"quantize": ("plain",), "gemm": ("residual", "geglu")},
    (89, "int8"): {"gemm": ("geglu",)},
    (100, "fp8"): {"gemm": ("residual",), "conv": ("framed residual",)},
    (100, "int8"): {"quantize": ("plain",)},
}  # fmt: skip
"""Variants that the test compiles, by target and format; of a list of tiles the first, and the
first that is copied by TMA."""


def representative(case: Case, target: int) -> bool:
    """Whether the test compiles it: about half a minute of one core for all targets."""
    if case.variant not in FEW[target, case.number].get(case.kernel, ()):
        return False
    if case.tile is None:
        return True
    listed = {"geglu": tiles.GEGLU, "stride 2": tiles.GATHERED, "": tiles.ATTENTION}
    usual = tiles.CONV if case.kernel == "conv" else tiles.PLAIN
    fitting = tiles.fitting(listed.get(case.variant, usual), target)
    copied = [tile for tile in fitting if tile.TMA]
    return case.tile in (fitting[0], *(copied[:1] if case.number == "fp8" else ()))


def compiled(
    targets: list[int], only: list[str] | None, few: bool, numbers: list[str]
) -> Iterator[dict[str, Any]]:
    """Rows of the table: case, target, and a report for each kernel or an error."""
    for target in targets:
        with Compiler(target) as compiler:
            for number in (each for each in numbers if target >= 89 or each == "int8"):
                for case in cases(number, target):
                    if only and case.kernel not in only:
                        continue
                    if not few or representative(case, target):
                        yield from _rows(case, target, compiler)


def _rows(case: Case, target: int, compiler: Compiler) -> Iterator[dict[str, Any]]:
    head = {
        "case": case.kernel, "variant": case.variant, "number": case.number,
        "tile": str(case.tile or ""), "target": target,
    }  # fmt: skip
    try:
        case.run()
    except Exception as error:  # whatever the compiler says is what the table is for
        compiler.reports()
        yield {**head, "kernel": "", "faults": [short(error)]}
        return
    for report in compiler.reports(case.elements):
        yield {**head, **asdict(report), "faults": report.faults(target)}


COLUMNS = ("registers", "spills", "shared_bytes", "instructions", "loop", "after", "per_element",
           "in_flight", "tma", "mma")  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """One row in words."""
    name = row["kernel"] or row["case"]
    head = (f"sm_{row['target']:<4}{row['number']:5}{name:18}{row['variant']:20}"
            f"{row['tile']:19}")  # fmt: skip
    if "registers" not in row:
        return head + "; ".join(row["faults"])
    told = [str(row[name]) if row[name] not in (None, "") else "-" for name in COLUMNS]
    return head + " ".join(f"{each:>7}" for each in told) + "  ".join(["", *row["faults"]])


def _asked(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if not asked.session:
        yield from compiled(asked.target, asked.only, asked.representative, asked.number)
        return
    from benchmarks import _session_kernels

    for target in (each for each in asked.target if each >= 89):  # sm_80 has no FP8
        yield from _session_kernels.rows(target, not asked.list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=int, nargs="*", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--only", nargs="*", help="kernels, by the name of their wrapper")
    parser.add_argument("--number", nargs="*", default=list(NUMBERS), choices=NUMBERS)
    parser.add_argument("--representative", action="store_true")
    parser.add_argument("--session", action="store_true", help="what the measuring session needs")
    parser.add_argument("--list", action="store_true", help="with --session: compile nothing")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    asked = parser.parse_args()
    if asked.list and not asked.session:
        parser.error("--list is what --session would compile")
    print(f"Triton {triton.__version__}, torch {torch.__version__}")
    print(f"{'target and kernel':68}" + " ".join(f"{name[:7]:>7}" for name in COLUMNS))
    rows = []
    for row in _asked(asked):
        rows.append(row)
        print(row["key"] if asked.list and "key" in row else line(row), flush=True)
    faults = sum(bool(row["faults"]) for row in rows)
    if asked.json:
        told = {"triton": triton.__version__, "kernels": rows}
        asked.json.write_text(json.dumps(told, indent=1) + "\n")
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    how = "listed" if asked.list else f"compiled in {seconds:.0f} s"
    print(f"{len(rows)} kernels {how}, {faults} with faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
