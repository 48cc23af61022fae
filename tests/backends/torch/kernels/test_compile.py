"""Every Triton kernel compiles for GPUs that are not here: the interpreter sees no type errors."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytest.importorskip("triton", reason="the kernels need Triton: pip install -e .[test]")

HOPPER = {"gemm", "conv", "attention", "quantize", "geglu_quantize", "layer_norm", "group_norm",
          "euler"}  # fmt: skip
"""Wrappers of which at least one kernel is compiled for sm_90."""


def compiled(target, folder, *arguments):
    """Exit status, output and rows of the command that compiles, in a process of its own."""
    file = folder / "rows.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/compile_kernels.py", "--representative", "--target", target,
         "--json", file, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=580,
        env=os.environ | {"TRITON_CACHE_DIR": str(folder / "cache")},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr, json.loads(file.read_text())["kernels"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", ["80", "89", "90", "100"])
def test_kernels_compile(target, tmp_path):
    status, output, rows = compiled(target, tmp_path)
    assert status == 0, output
    assert not any(row["faults"] for row in rows)
    numbers = {row["number"] for row in rows}
    assert numbers == ({"int8"} if target == "80" else {"int8", "fp8"})
    assert all(row["mma"] for row in rows if row["case"] in ("gemm", "conv", "attention"))
    if target == "90":
        assert {row["case"] for row in rows} == HOPPER
        products = [row for row in rows if row["case"] in ("gemm", "conv")]
        assert all("wgmma" in row["mma"] for row in products)
        # FP8 products overlap with what comes next; INT8 ones Triton waits for.
        assert all((row["in_flight"] > 0) == (row["number"] == "fp8") for row in products)
        assert any(row["tma"] for row in products)


def test_faults_are_told():
    """Spills and shared memory above what is allowed make a row a fault."""
    script = (
        "from benchmarks._compiled import Report\n"
        "def of(**given):\n"
        "    rest = dict(kernel='k', registers=9, spills=0, shared_bytes=0, warps=4, mma='',\n"
        "                instructions=1, loop=0, after=1, in_flight=None, tma=0, loads={},\n"
        "                per_element=None, seconds=0.0)\n"
        "    return Report(**rest | given)\n"
        "print(of(spills=32, shared_bytes=232448).faults(90))\n"
        "print(of(spills=33).faults(90), of(shared_bytes=232449).faults(90))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
                          timeout=120, check=True)  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first == "[]"
    assert "33 registers spilled" in second and "232449 bytes" in second
