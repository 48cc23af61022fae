"""Triton kernels compiled for a GPU that is not there, and what their machine code says.

`Compiler` stands in for the driver: a launch compiles and runs nothing. Meta tensors go through the
product's own wrappers, so that signatures and specializations are those of a run.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from sdxl.backends.torch.kernels.tiles import SHARED_BYTES

SPILL_LIMIT = 32
"""Registers of a thread that may lie in local memory."""

WARP = 32


@dataclass(frozen=True)
class Report:
    """One compiled kernel.

    spills: 4-byte registers in a thread's stack frame, as Triton's `n_spills` counts them; loop and
    after: instructions in the innermost loop that multiplies (else the longest), and behind it;
    per_element: instructions of all threads over elements of output, loops counted once.
    """

    kernel: str
    registers: int
    spills: int
    shared_bytes: int
    warps: int
    instructions: int
    loop: int
    after: int
    mma: str
    in_flight: int | None
    tma: int
    loads: dict[str, int]
    per_element: float | None
    seconds: float
    operations: dict[str, int] = field(default_factory=dict)

    def faults(self, target: int) -> list[str]:
        """What the compile test refuses."""
        limit = SHARED_BYTES[target]
        found = []
        if self.spills > SPILL_LIMIT:
            found.append(f"{self.spills} registers spilled, {SPILL_LIMIT} allowed")
        if self.shared_bytes > limit:
            found.append(f"{self.shared_bytes} bytes of shared memory, sm_{target} has {limit}")
        return found


class Compiler:
    """A driver for a target such as 90 that launches nothing and keeps what it built."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.built: list[tuple[str, Any, tuple[int, ...], float]] = []

    def __enter__(self) -> Compiler:
        self._run = JITFunction.run
        driver.set_active(self)
        compiler, plain = self, self._run

        def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
            began = time.perf_counter()
            made = plain(self, *args, grid=grid, warmup=True, **named)
            seconds = time.perf_counter() - began
            compiler.built.append((self.fn.__name__, made, tuple(grid), seconds))
            return made

        JITFunction.run = compile_only
        return self

    def __exit__(self, *_: Any) -> None:
        JITFunction.run = self._run

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.target, WARP)

    def get_current_device(self) -> int:
        return self.target  # kernels are cached by device

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def map_python_to_cpp_type(self, name: str) -> str:
        return name

    def reports(self, elements: int | None = None) -> list[Report]:
        """What was built since the last call; `elements`: the output's, of elementwise kernels."""
        built, self.built = self.built, []
        return [read(*each, elements) for each in built]


def read(
    name: str, built: Any, grid: tuple[int, ...], seconds: float, elements: int | None = None
) -> Report:
    """A compiled kernel's resources and instructions, by the disassembler in Triton's wheel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin", delete=False) as file:
        file.write(built.asm["cubin"])
    try:
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    finally:
        Path(file.name).unlink()
    sizes = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert sizes, usage
    lines = _instructions(code)
    loop = _loop(lines)
    names = [line for line in lines if not line.endswith(":") and not line.startswith("->")]
    counted = Counter(names)
    warps = built.metadata.num_warps
    programs = 1
    for size in grid:
        programs *= size
    return Report(
        kernel=name,
        registers=int(sizes[1]),
        spills=int(sizes[2]) // 4,
        shared_bytes=built.metadata.shared,
        warps=warps,
        instructions=len(names),
        loop=loop[0],
        after=loop[1],
        mma=_mma(built.asm["ptx"]),
        in_flight=_in_flight(built.asm["ttgir"]),
        tma=len(re.findall(r"cp\.async\.bulk", built.asm["ptx"])),
        loads={n: c for n, c in counted.items() if n.startswith(("LDG", "LDGSTS", "STG"))},
        per_element=elements and round(len(names) * warps * WARP * programs / elements, 2),
        seconds=round(seconds, 2),
        operations=dict(Counter(n.partition(".")[0] for n in names).most_common()),
    )


def _tool(name: str, *arguments: str) -> str:
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    done = subprocess.run(
        [folder / name, *arguments], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def _instructions(code: str) -> list[str]:
    """Opcodes in order, labels as `NAME:`, branches followed by `->NAME`; no padding."""
    found: list[str] = []
    for line in code.splitlines():
        if label := re.match(r"^\s*(\.L_[\w.]+):", line):
            found.append(label[1] + ":")
        elif made := re.match(
            r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)", line
        ):
            if made[1] == "NOP":
                continue
            found.append(made[1])
            if made[1].startswith("BRA") and (target := re.search(r"(\.L_[\w.]+)", made[2])):
                found.append("->" + target[1])
    return found


def _loop(lines: list[str]) -> tuple[int, int]:
    """Instructions in the innermost loop that multiplies, else the longest, and behind it."""
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for place, line in enumerate(lines):
        if line.endswith(":"):
            labels[line[:-1]] = place
        elif line.startswith("->") and line[2:] in labels and labels[line[2:]] < place - 2:
            loops.append((labels[line[2:]], place))

    def plain(first: int, last: int) -> list[str]:
        return [each for each in lines[first:last] if not each.endswith(":") and each[:2] != "->"]

    inner = [one for one in loops if not any(o != one and _within(o, one) for o in loops)]
    busy = [one for one in inner if any("MMA" in each for each in plain(*one))]
    if not inner:
        return 0, len(plain(0, len(lines)))
    first, last = max(busy or inner, key=lambda one: one[1] - one[0])
    return len(plain(first, last)), len(plain(last, len(lines)))


def _within(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return other[0] <= one[0] and one[1] <= other[1]


def _mma(ptx: str) -> str:
    """The kinds of matrix instruction, e.g. wgmma m64n128k32 e4m3."""
    found = set()
    for kind, shape, types in re.findall(
        r"(wgmma\.mma_async|tcgen05\.mma|mma)\.sync\.aligned\.(m\d+n\d+k\d+)\.([\w.]+)", ptx
    ):
        numbers = [each for each in types.split(".") if re.fullmatch(r"[efsbu]\w*\d", each)]
        found.add(f"{kind.partition('.')[0]} {shape} {numbers[1] if len(numbers) > 1 else ''}")
    if "tcgen05.mma" in ptx:
        found |= {
            f"tcgen05 {kind}"
            for kind in re.findall(r"tcgen05\.mma\.cta_group::\d\.kind::(\w+)", ptx)
        }
    return ", ".join(sorted(found))


def _in_flight(ttgir: str) -> int | None:
    """wgmma products that may still run when the next begins; None without wgmma, 0: none may."""
    waits = re.findall(r"warp_group_dot_wait [^\n]*pendings = (\d+)", ttgir)
    return max(map(int, waits)) if waits else None


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")
