"""What SDXL in 8 bits would take on an H100 or H200: arithmetic on compiled kernels.

    python benchmarks/compile_kernels.py --target 90 --json kernels.json
    python benchmarks/gpu_model.py kernels.json
    python benchmarks/gpu_model.py kernels.json --number int8 --images 16

Instructions, registers, shared memory and whether products overlap come from the compiled kernels;
rates are the assumptions printed first. No figure of it was measured on a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import _unet_work as work

SMS, WARP = 132, 32
MAC_PER_CYCLE = 4096  # dense 8-bit multiply-adds of one SM of an H100 (1,979 TFLOPS at 1.83 GHz)
REGISTERS, SHARED, THREADS = 65_536, 233_472, 2048  # of one SM


@dataclass(frozen=True)
class Assumptions:
    """What the model believes; every field is printed."""

    memory_tb_per_s: float = 3.0  # H200: 4.3
    busy_ghz: float = 1.58  # clock under matrix load (power), from published GEMM figures
    light_ghz: float = 1.7  # clock of elementwise kernels
    issue_per_cycle: float = 2.4  # warp instructions of an SM; 4 at most
    triton: float = 0.74  # makes 4096^3 in FP8 1,125 TFLOPS, the middle of the published figures
    cublas: float = 0.80  # with `cublas_depth` makes 4096^3 1,220 TFLOPS, as published
    cublas_depth: float = 350.0  # lost per product: 1,073 TFLOPS at K=1280, 883 at K=640
    ceiling: bool = True  # no kernel of ours beats that law of published figures
    overlap: bool = True  # the blocks of an SM hide each other's start and epilogue
    fill_cycles: float = 1500.0  # a block's start and end, which nothing overlaps in it
    sharpness: float = 4.0  # two queues near saturation: (a^4 + b^4)^(1/4)
    gap_us: float = 1.0  # between kernels of a graph
    bf16_conv_tflops: float = 550.0  # cuDNN, channels-last
    attention_tflops: str = "408 373"  # cuDNN bf16, published: 4096 and 1024 tokens
    cross_tflops: float = 200.0
    vae_ms: float = 26.0  # an image, bf16, compiled
    text_ms: float = 1.0
    forgotten: float = 0.92


class Model:
    """Milliseconds of a step's parts."""

    def __init__(self, rows: list[dict[str, Any]], number: str, given: Assumptions) -> None:
        self.given, self.number = given, number
        self.kernels: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            if row["target"] == 90 and row["number"] == number and "loop" in row:
                self.kernels[row["case"], row["kernel"], row["variant"]].append(row)
        self.parts: dict[str, float] = defaultdict(float)
        self.shapes: list[tuple[str, float, float, str]] = []

    def _both(self, *parts: float) -> float:
        power = self.given.sharpness
        return sum(part**power for part in parts) ** (1 / power)

    def _memory_ms(self, count: float) -> float:
        return count / self.given.memory_tb_per_s / 1e9

    def triton_ms(
        self, row: dict[str, Any], rows: int, columns: int, depth: int, trips: int, moved: float
    ) -> float:
        """One product with one compiled tile: `trips` through its loop, `moved` bytes."""
        high, wide, deep = (int(each) for each in row["tile"].split()[0].split("x"))
        per_warp = row["warps"] / self.given.issue_per_cycle
        multiply = high * wide * deep * trips / MAC_PER_CYCLE
        loop = row["loop"] * trips * per_warp
        rest = (row["instructions"] - row["loop"]) * per_warp
        threads = row["warps"] * WARP
        held = 8 * math.ceil(row["registers"] / 8) * threads
        blocks = min(REGISTERS // held, SHARED // (row["shared_bytes"] + 1024), THREADS // threads)
        inside = self._both(multiply, loop) if row["in_flight"] else multiply + loop
        alone = inside + rest + self.given.fill_cycles
        cycles = max(self._both(multiply, loop + rest), alone / blocks)
        if not self.given.overlap:
            cycles = alone
        count = math.ceil(rows / high) * math.ceil(columns / wide)
        rounds = math.ceil(count / (SMS * blocks)) * blocks
        compute = rounds * cycles / self.given.busy_ghz / 1e6 / self.given.triton
        if self.given.ceiling:
            compute = max(compute, 2e3 * rows * columns * depth / self._published(depth))
        return self._both(compute, self._memory_ms(moved))

    def _published(self, depth: int) -> float:
        """Operations per second of the best plain FP8 product of that depth."""
        peak = SMS * MAC_PER_CYCLE * 2 * self.given.busy_ghz * 1e9 * self.given.cublas
        return peak * depth / (depth + self.given.cublas_depth)

    def cublas_ms(self, rows: int, columns: int, depth: int) -> float:
        """A plain product with its bias."""
        tiles = math.ceil(rows / 128) * math.ceil(columns / 256)
        even = tiles / (math.ceil(tiles / SMS) * SMS)
        rate = even * self._published(depth)
        flop = 2.0 * rows * columns * depth
        moved = rows * depth + columns * depth + 2 * rows * columns
        return self._both(flop / rate * 1e3, self._memory_ms(moved))

    def light_ms(self, name: str, variant: str, elements: float, moved: float) -> float:
        """An elementwise kernel, by its instructions per element and the bytes it moves."""
        case, _, kernel = name.partition(" ")
        (row,) = self.kernels[case, kernel, variant]
        rate = SMS * WARP * self.given.issue_per_cycle * self.given.light_ghz * 1e9
        return self._both(elements * row["per_element"] / rate * 1e3, self._memory_ms(moved))

    def add(self, part: str, ms: float, times: int = 1) -> None:
        """Time of a part of the step, and the gap before each kernel."""
        self.parts[part] += (ms + self.given.gap_us / 1e3) * times

    def product(self, one: work.Product) -> None:
        """The faster of the Triton tiles and cuBLAS with what has to follow it."""
        outputs = one.rows * one.columns
        read = (one.rows + one.columns) * one.depth
        geglu = one.epilogue == "geglu"
        moved = read + outputs * (0.5 if geglu else 2 + 2 * (one.epilogue == "residual"))
        times = {
            f"Triton {row['tile']}": self.triton_ms(
                row, one.rows, one.columns, one.depth,
                math.ceil(one.depth / int(row["tile"].split()[0].split("x")[2])), moved,
            )
            for row in self.kernels["gemm", "_gemm", one.epilogue]
        }  # fmt: skip
        plain = self.cublas_ms(one.rows, one.columns, one.depth)
        if self.number == "fp8" and geglu:
            after = self.light_ms("geglu_quantize _quantize", "plain", outputs / 2, 2.5 * outputs)
            times["cuBLAS, GEGLU after it"] = plain + after
        elif self.number == "fp8":
            added = one.epilogue == "residual"
            times["cuBLAS"] = plain + added * self._memory_ms(6 * outputs)
        self._best(f"{one.rows}x{one.depth}x{one.columns} {one.epilogue}", times, one.flop,
                   one.times)  # fmt: skip
        self.add("feed-forward in" if geglu else "other linear", min(times.values()), one.times)

    def conv(self, one: work.Conv) -> None:
        """A convolution with its norm, or with rounding alone."""
        outputs = one.count * one.size**2 * one.outer
        sources = one.count * (one.size * one.stride) ** 2 * one.inner
        added = 2 * outputs * one.residual
        sixteen = one.flop / self.given.bf16_conv_tflops / 1e9
        if one.kernel == 1 or 4 in (one.inner, one.outer):
            moved = 2.0 * (sources + outputs)
            self.add("16-bit convolutions", self._both(sixteen, self._memory_ms(moved)))
        else:
            framed = one.stride == 1
            kernel, variant = ("_framed", "framed" + " residual" * one.residual) if framed else (
                "_conv", "stride 2")  # fmt: skip
            rows = one.count * (one.size + framed) ** 2
            times = {"cuDNN in 16 bits": sixteen + self._memory_ms(3 * sources + 3 * added)}
            for row in self.kernels["conv", kernel, variant]:
                trips = 9 * math.ceil(one.inner / int(row["tile"].split()[0].split("x")[2]))
                times[f"Triton {row['tile']}"] = self.triton_ms(
                    row, rows, one.outer, 9 * one.inner, trips, sources + 2 * outputs + added
                )
            self._best(f"conv {one.size}^2 {one.inner}->{one.outer}{' +residual' * one.residual}",
                       times, one.flop, 1)  # fmt: skip
            self.add("convolutions", min(times.values()))
        if one.normed:
            self._norm(sources, "frame skip" if one.skip else "frame added")
        elif one.kernel == 3 and one.inner != 4:
            self.add("quantize", self.light_ms("quantize _quantize", "plain", sources, 3 * sources))

    def _norm(self, elements: float, variant: str) -> None:
        self.add("GroupNorm", self.light_ms("group_norm _moments", variant, elements, 2 * elements))
        self.add("GroupNorm", self.light_ms("group_norm _merge", variant, elements, elements / 16))
        self.add("GroupNorm", self.light_ms("group_norm _apply", variant, elements, 3 * elements))

    def _best(self, name: str, times: dict[str, float], flop: float, count: int) -> None:
        chosen = min(times, key=times.__getitem__)
        self.shapes.append((name, times[chosen], flop / count / times[chosen] / 1e9, chosen))

    def step(self, rows: int, attention: tuple[float, float]) -> float:
        """Milliseconds of one step of the UNet."""
        for one in work.products(rows):
            self.product(one)
        for each in work.convolutions(rows):
            self.conv(each)
        for own in work.attentions(rows):
            longer, shorter = attention
            rate = longer if own.keys == 4096 else shorter if own.keys == 1024 else (
                self.given.cross_tflops)  # fmt: skip
            self.add("attention", own.flop / own.times / rate / 1e9, own.times)
        for width, tokens, blocks, transformers in work.LEVELS:
            size = rows * tokens * width
            norm = self.light_ms("layer_norm _layer_norm", "1 consumers", size, 3 * size)
            self.add("LayerNorm", norm, 3 * blocks)
            times = 2 * blocks + transformers  # attention's output, and the last block's
            self.add(
                "quantize", self.light_ms("quantize _quantize", "plain", size, 3 * size), times
            )
            for _ in range(transformers):
                self._norm(size, "no silu")
        self.add("rest", self._memory_ms(2.5 * rows * (64**2 * 1280 + 128**2 * 640)), 2)
        self.add("rest", 0.003, 2 * len(work.RESNETS) + 10)  # time embedding, Euler step
        return sum(self.parts.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernels", type=Path, help="what compile_kernels.py wrote")
    parser.add_argument("--number", choices=("fp8", "int8"), default="fp8")
    parser.add_argument("--images", type=int, default=8, help="of a batch; two rows each")
    asked = parser.parse_args()
    told = json.loads(asked.kernels.read_text())
    print(f"A model, not a measurement. Kernels: Triton {told['triton']}, sm_90, {asked.number}")
    usual = Assumptions()
    for name, value in vars(usual).items():
        print(f"  {name:18}{value}")
    rows = 2 * asked.images
    counted = work.tflop(1)
    assert abs(counted - work.COUNTED_TFLOP) < 1e-3, counted
    for device, memory in (("H100", 3.0), ("H200", 4.3)):
        for name, rates in (("cuDNN", (408.0, 373.0)), ("FA3 bf16", (476.0, 392.0))):
            for overlap in (False, True):
                given = Assumptions(memory_tb_per_s=memory, overlap=overlap)
                model = Model(told["kernels"], asked.number, given)
                step = model.step(rows, rates)
                if device == "H100" and name == "cuDNN":
                    print(f"\nH100, blocks of an SM {'overlap' if overlap else 'do not overlap'}:")
                    _print(model, step)
                each = (20 * step / asked.images + given.vae_ms + given.text_ms) / given.forgotten
                print(f"=> {device}, attention by {name}, {'' if overlap else 'no '}overlap: step "
                      f"{step:.0f} ms, {each:.0f} ms an image, {1e3 / each:.2f} images/s, "
                      f"{work.tflop(rows) / step * 1e3:.0f} TFLOPS of the step")  # fmt: skip
    return 0


def _print(model: Model, step: float) -> None:
    print(f"{'shape':42}{'ms':>8}{'TFLOPS':>8}  faster")
    for name, ms, rate, chosen in dict.fromkeys(model.shapes):
        print(f"{name:42}{ms:8.3f}{rate:8.0f}  {chosen}")
    for part, ms in sorted(model.parts.items(), key=lambda pair: -pair[1]):
        print(f"  {part:24}{ms:7.1f} ms {ms / step:6.1%}")


if __name__ == "__main__":
    sys.exit(main())
