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


@dataclass(frozen=True)
class Kernel:
    """What Triton compiles apart: a name, constants, and what is known of the other arguments.

    odd: arguments that are no multiples of 16, pointers among them.
    """

    name: str
    constants: tuple[tuple[str, str], ...]
    types: tuple[tuple[str, str], ...]
    odd: tuple[str, ...]
    warps: int
    stages: int

    def __str__(self) -> str:
        told = ", ".join(f"{name}={value}" for name, value in self.constants)
        types = ", ".join(f"{name}: {kind}" for name, kind in self.types)
        odd = f" not by 16: {', '.join(self.odd)}" if self.odd else ""
        return f"{self.name}({types}) [{told}] w{self.warps} s{self.stages}{odd}"


@dataclass(frozen=True)
class _Pointer:
    """A tensor without memory, at its true distance from what an allocator would align."""

    dtype: torch.dtype
    offset: int

    def data_ptr(self) -> int:
        """The distance in bytes."""
        return self.offset


def _placed(given: Any) -> Any:
    if isinstance(given, torch.Tensor) and given.is_meta and given.storage_offset():
        return _Pointer(given.dtype, given.storage_offset() * given.element_size())
    return given


class Compiler:
    """A driver for a target such as 90 that launches nothing and keeps what it built.

    build: without it nothing is compiled either, `kernels` alone tells what would be.
    """

    def __init__(self, target: int, build: bool = True) -> None:
        self.target, self.build = target, build
        self.built: list[tuple[str, Any, tuple[int, ...], float]] = []
        self.kernels: dict[str, Kernel] = {}
        """Every one that was launched, by Triton's key."""
        self.first: dict[str, tuple[str, Any, tuple[int, ...], float]] = {}
        """What was built of each; nothing of one that the compiler refused."""

    def __enter__(self) -> Compiler:
        self._run = JITFunction.run
        driver.set_active(self)
        triton.knobs.runtime.jit_cache_hook = self._first_seen
        compiler, plain = self, self._run

        def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
            began, known = time.perf_counter(), len(compiler.kernels)
            made = plain(self, *map(_placed, args), grid=grid, warmup=True, **named)
            seconds = time.perf_counter() - began
            if made is not None:
                compiler.built.append((self.fn.__name__, made, tuple(grid), seconds))
                for key in [*compiler.kernels][known:]:
                    compiler.first[key] = compiler.built[-1]
            return made

        JITFunction.run = compile_only
        return self

    def __exit__(self, *_: Any) -> None:
        JITFunction.run = self._run
        triton.knobs.runtime.jit_cache_hook = None

    def _first_seen(self, *, key: str, fn: Any, **given: Any) -> bool:
        """Triton's hook before it compiles; true keeps it from doing so."""
        name, wanted = fn.name.rpartition(".")[2], given["compile"]
        by16 = {path[0] for path, known in wanted["configs"][0].items()
                if ["tt.divisibility", 16] in known}  # fmt: skip
        names = list(wanted["signature"])
        constants = {names[path[0]]: value for path, value in wanted["constants"].items()}
        types = {each: str(kind) for each, kind in wanted["signature"].items()
                 if each not in constants}  # fmt: skip
        able = [each for each, kind in types.items() if kind[0] in "*i"]
        odd = tuple(each for each in able if names.index(each) not in by16)
        self.kernels.setdefault(f"{name} {key}", Kernel(
            name, tuple((each, str(value)) for each, value in constants.items()),
            tuple(types.items()), odd, wanted["num_warps"], wanted["num_stages"],
        ))  # fmt: skip
        return not self.build

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
