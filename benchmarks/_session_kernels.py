"""Every Triton kernel that the measuring session launches, compiled or listed without a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import triton

from benchmarks._compiled import Compiler, Kernel, read
from benchmarks.gpu import launches, steps
from sdxl.backends.torch.kernels.words import short


def rows(target: int, build: bool) -> Iterator[dict[str, Any]]:
    """Rows of what the session's steps launch there; without `build` only what they would be."""
    with tempfile.TemporaryDirectory() as folder, Compiler(target, build) as compiler:
        for step in launches.different(steps.EVERY):
            known, refused = len(compiler.kernels), ""
            with contextlib.redirect_stdout(io.StringIO()):
                try:
                    launches.run(step, target, Path(folder))
                except RuntimeError as error:  # the other steps' kernels are wanted all the same
                    refused = short(error)
            compiler.built.clear()
            for key, kernel in list(compiler.kernels.items())[known:]:
                yield {**_head_of(kernel, step.name, target), **_told(compiler, key, kernel)}
            if refused:
                yield {**_head_of(None, step.name, target), "faults": [refused]}
        if build:
            print(f"# {launchers(compiler)} launchers")


def launchers(compiler: Compiler) -> int:
    """Build what starts the kernels into Triton's cache; how many there are.

    Triton up to 3.6 makes one for each signature when it is first launched, by the machine's C
    compiler and Python's headers; later ones need none.
    """
    driver = importlib.import_module("triton.backends.nvidia.driver")
    if not hasattr(driver, "make_launcher"):
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if not _has_cuda():  # what they are linked to: its name alone is wanted here
            (Path(folder) / "none.c").touch()
            line = ("gcc", "-shared", "-o", "libcuda.so.1", "-Wl,-soname,libcuda.so.1", "none.c")
            subprocess.run(line, cwd=folder, check=True)
            triton.knobs.nvidia.libcuda_path = folder
        makers = [partial(driver.CudaLauncher, made.src, made.metadata)
                  for _, made, _, _ in compiler.first.values()]  # fmt: skip
        plain, known = driver.compile_module_from_src, set[str]()

        def once(src: str, **given: Any) -> Any:
            if src in known:
                raise ImportError
            known.add(src)
            return plain(src, **given)

        with mock.patch.object(driver, "compile_module_from_src", once):
            for make in (driver.CudaUtils, *makers):
                with contextlib.suppress(ImportError):  # to load it needs the real library
                    make()
    return len(known) - 1


def _has_cuda() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _head_of(kernel: Kernel | None, step: str, target: int) -> dict[str, Any]:
    given = dict(kernel.constants) if kernel else {}
    tile = "x".join(given[name] for name in ("BM", "BN", "BK") if name in given)
    number = {"True": "int8", "False": "fp8"}.get(given.get("INTEGER", ""), "")
    tma = " TMA" * (given.get("TMA") == "True")
    return {"case": kernel.name if kernel else "", "kernel": kernel.name if kernel else "",
            "variant": step, "number": number, "target": target,
            "tile": f"{tile} w{kernel.warps} s{kernel.stages}{tma}" if kernel else ""}  # fmt: skip


def _told(compiler: Compiler, key: str, kernel: Kernel) -> dict[str, Any]:
    """What is told of a kernel: what Triton keeps it apart by, and its machine code's report."""
    told = {"key": str(kernel), "constants": dict(kernel.constants), "odd": list(kernel.odd)}
    if not compiler.build:
        return {**told, "faults": []}
    if key not in compiler.first:
        return {**told, "faults": ["the compiler refuses it"]}
    report = read(*compiler.first[key])
    return {**told, **asdict(report), "faults": report.faults(compiler.target)}
