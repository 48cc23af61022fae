"""Build the engines of SDXL at its real size on a machine without a GPU, with TensorRT-RTX.

    python benchmarks/engine_real_size.py                             fp16, random weights
    python benchmarks/engine_real_size.py --format int8 --level 3     8 bits, SYNTHETIC statistics
    python benchmarks/engine_real_size.py --store FOLDER              keep, and go on from, FOLDER

The UNet takes about 19 GB of memory, the store about 20 GB of disk in fp16. Graphs that the store
has are not exported again (`benchmarks/export_real_size.py --store FOLDER` makes them). A real
calibration needs a GPU, so ranges in 8 bits are made up (`benchmarks/quant_real_size.py`): time,
memory and layers mean something, numbers do not. Figures are of each engine's own process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
from quant_real_size import synthesize

ROOT = Path(__file__).resolve().parent.parent
MEMORY_GB = 20
SILENCE_S = 7200
"""Longer than any phase of one network beside other work."""


def main() -> int:
    """Run `export.py`, whose progress goes to standard error, and print what each piece took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("none", "int8", "fp8"), default="none")
    parser.add_argument("--level", default="3", help="of a quantized format")
    parser.add_argument("--target", default="sm89", help="architecture; FP8 needs sm89 or sm120")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--anyway", action="store_true", help="even if memory looks too small")
    chosen = parser.parse_args()
    free = psutil.virtual_memory().available / 1e9
    if free < MEMORY_GB and not chosen.anyway:
        sys.exit(f"{free:.1f} GB of memory free, {MEMORY_GB} are needed; --anyway tries it")
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "backend=trt", "backend.flavor=rtx", "model=sdxl_random", "precision=fp16",
            f"backend.compute_capabilities=[{chosen.target}]", "backend.batch_size=1",
            f"scenario.startup_s={SILENCE_S}", "tracking=off", f"hydra.run.dir={folder}/run",
        ]  # fmt: skip
        if chosen.format != "none":
            statistics = Path(folder) / "synthetic.safetensors"
            synthesize(statistics, "fp16")
            words += [
                f"quant={chosen.format}", f"quant_level={chosen.level}",
                f"quant.statistics={statistics}", "quant.report_prompts=0",
            ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "export.py", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"SDXL_STORE": str(chosen.store or f"{folder}/store")},
        )  # fmt: skip
        outcome = json.loads(done.stdout.splitlines()[-1])
    if done.returncode:
        print(outcome["reason"])
        return 1
    for piece in outcome["pieces"]:
        print(_line(piece))
    print(json.dumps(next(p for p in reversed(outcome["pieces"]) if p["graph"] == "unet")))
    return 0


def _line(piece: dict[str, Any]) -> str:
    layers = piece["layers"] if piece["kind"] == "engine" else {}
    counts = {kind: bits for kind, bits in layers.items() if kind in ("conv", "matmul")}
    return (
        f"{piece['graph']:15} {piece['kind']:10} {piece['bytes'] / 1e9:7.3f} GB "
        f"{piece['seconds']:7.1f} s  peak {piece['peak_bytes'] / 1e9:6.2f} GB  "
        f"{'built' if piece['built'] else 'found'}  {counts or ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
