"""The kernels that the measuring session brings along compiled: those that its steps launch."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks.gpu import compiling, launches, steps
from tests.conftest import ROOT

triton = pytest.importorskip("triton", reason="the kernels need Triton: pip install -e .[test]")

NUMBERS = ("True", "False")
WANTED = {
    "convolutions of 320 and 960 channels": [
        ("_framed", {"INTEGER": number, "RESIDUAL": rest, "BK": "128", "WHOLE": "False",
                     "TMA": copied, "BIAS": "True"}, None)
        for number in NUMBERS for rest in NUMBERS for copied in NUMBERS
    ],
    "attention over 77 keys": [("_attention", {"BM": "128", "BN": "128"}, {"keys", "heads"})],
    "attention over 1024 keys": [("_attention", {"BM": "128", "BN": "128"}, {"heads"})],
    "a LayerNorm of 640": [("_layer_norm", {"INTEGER": number, "BN": "128"}, None)
                           for number in NUMBERS],
    "a GroupNorm at 32 x 32": [
        ("_moments", {}, {"chunks"}), ("_merge", {"WIDTH": "64"}, {"chunks"}),
        ("_merge", {"WIDTH": "128"}, {"chunks"}),
    ],
    "the Euler step in the loop": [("_euler", {}, {"sigma", "sigma_next"})],
    "the text's codes in small batches": [("_quantize", {"INTEGER": "False"}, {"rows"})],
    "SmoothQuant's factors": [("_gemm", {"GEGLU": "True", "SMOOTH": "True"}, None)],
}  # fmt: skip
"""Kernel, constants and arguments that are no multiples of 16 (None: whatever)."""


def lacking(rows, wanted):
    """What no kernel of the list is."""
    return [
        f"{what}: {name} with {constants}, odd {odd}"
        for what, kinds in wanted.items()
        for name, constants, odd in kinds
        if not any(
            row["kernel"] == name
            and constants.items() <= row["constants"].items()
            and (odd is None or odd == set(row["odd"]))
            for row in rows
        )
    ]


@pytest.mark.slow
def test_every_kernel_of_a_step_is_on_the_list_to_compile(tmp_path):
    file = tmp_path / "kernels.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/compile_kernels.py", "--session", "--list", "--target", "90",
         "--json", file],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(file.read_text())["kernels"]
    assert not lacking(rows, WANTED)
    assert len({row["key"] for row in rows}) == len(rows) > 150
    assert not (tmp_path / "cache").exists(), "--list compiles nothing"
    del rows[next(i for i, row in enumerate(rows) if row["kernel"] == "_euler" and row["odd"])]
    (named,) = lacking(rows, WANTED)
    assert "_euler" in named and "sigma_next" in named, "what is missing is named"


def test_steps_that_launch_the_same_are_walked_once():
    names = [step.name for step in launches.different(steps.EVERY)]
    assert {"correct", "correct-int8", "linear", "conv", "attention", "norms"} <= set(names)
    assert "fp8" in names and "profile" not in names and "fp8-16" in names and "server" in names


def test_what_a_step_had_to_compile_is_told():
    source = SimpleNamespace(
        fn=SimpleNamespace(__name__="_merge", arg_names=["moments", "chunks", "pixels", "WIDTH"]),
        constants={(3,): 64}, signature={"moments": "*fp32", "chunks": "i32", "pixels": "i32",
                                         "WIDTH": "constexpr"},
        attrs={(0,): [["tt.divisibility", 16]], (2,): [["tt.divisibility", 16]]},
    )  # fmt: skip
    found = []
    with compiling.watched(found):
        for hit in (True, False):
            triton.knobs.compilation.listener(
                src=source, metadata={}, metadata_group={}, cache_hit=hit,
                times=SimpleNamespace(total=1_500_000),
            )  # fmt: skip
    assert found == [
        {"kernel": "_merge", "constants": {"WIDTH": "64"}, "odd": ["chunks"], "s": 1.5}
    ]
    assert "1 kernels in 1.5 s: _merge" in compiling.line(found)
    assert triton.knobs.compilation.listener is None
