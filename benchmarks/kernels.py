"""SDXL's products, convolutions, attention and norms on this GPU, in 8 beside 16 bits.

    python benchmarks/kernels.py
    python benchmarks/kernels.py --rows 64 --only linear

A JSON line a shape, those of 1024 x 1024 pictures with `--rows` UNet rows (two per picture with
guidance): every candidate with what follows it in a run, by one clock, the median of replayed
graphs over inputs that no cache holds. The first line is the copy bandwidth that memory-bound work
can reach; what is fastest goes to stderr. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import candidates, clock  # noqa: E402
from benchmarks.gpu.child import Context  # noqa: E402
from benchmarks.gpu.shapes import ROWS  # noqa: E402

KINDS = {
    "linear": candidates.linear, "conv": candidates.convolution,
    "attention": candidates.attention, "norms": candidates.norms,
}  # fmt: skip


def tell(**found: dict[str, Any]) -> None:
    """The newest shape's times as a line."""
    (times,) = found.values()
    shape = list(times)[-1]
    told = {"shape": shape, "fastest": clock.fastest(times[shape]), **times[shape]}
    print(json.dumps(told), file=sys.__stdout__, flush=True)


def copying(device: torch.device) -> float:
    """TB/s of a copy, in and out."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    ms = clock.ms([partial(target.copy_, source)], device)
    return round(2 * source.numel() / ms / 1e9, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--only", choices=KINDS)
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device here: these figures exist on a GPU only")
    context = Context(Path(), False, tell, rows=asked.rows)
    print(json.dumps({
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "copy_tb_per_s": copying(context.device),
    }), flush=True)  # fmt: skip
    with contextlib.redirect_stdout(sys.stderr):
        for kind in [asked.only] if asked.only else KINDS:
            KINDS[kind](context)


if __name__ == "__main__":
    main()
