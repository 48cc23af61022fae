"""Which backend is fastest on this CPU, and what its pictures lose: the bundled model.

    python benchmarks/cpu_backends.py
    python benchmarks/cpu_backends.py --rounds 9 --cases "ort fp32,ort int8 level 3"

One process, every backend drawing the same eight pictures in turn, the median of the rounds
printed; CPU seconds are those of all threads, which other work on the machine does not stretch.
Pictures are compared with those of torch eager in fp32. Exits 1 if ONNX Runtime in fp32 is slower
than torch eager.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hydra import compose, initialize_config_dir

from sdxl.bench.generators import open_generator
from sdxl.config.load import load
from sdxl.config.registry import register
from sdxl.core.paths import ROOT
from sdxl.core.progress import Progress
from sdxl.model import prompts
from sdxl.quality.baseline import compare
from sdxl.run import artifacts, jobs

INT8 = ["backend=ort", "quant=int8", "quant.report_prompts=0"]
EAGER = "torch eager"
CASES = {
    EAGER: ["backend=torch"],
    "torch compile": ["backend=torch", "backend.compile=default"],
    "ort fp32": ["backend=ort"],
    **{
        f"ort int8 level {level}": [*INT8, f"quant_level={level}"]
        for level in ("1", "2", "2.5", "3")
    },
}


def main() -> int:
    """Open every backend, draw in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default=",".join(CASES), help="beside torch eager")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--calib-size", type=int, default=8)
    chosen = parser.parse_args()
    cases = {name: CASES[name] for name in dict.fromkeys([EAGER, *chosen.cases.split(",")])}
    register()
    indices = list(range(chosen.images))
    generators: dict[str, Any] = {}
    pictures: dict[str, list[Any]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
    ):
        for name, words in cases.items():
            began = time.perf_counter()
            size = [f"calib_size={chosen.calib_size}"] if "int8" in name else []
            config = load(compose("run", [*words, *size, f"limit={chosen.images}"]))
            with Progress(name) as progress:
                child = functools.partial(jobs.child, config, Path(folder), progress.report, {})
                loads = artifacts.build(config, child).loads
            made = time.perf_counter()
            asked = prompts.load(config.dataset, config.limit, config.seed)
            generators[name] = open_generator(config, loads, asked)
            opened = time.perf_counter()
            pictures[name] = list(generators[name].generate(indices))
            print(
                f"{name}: artifacts {made - began:.1f} s, opened in {opened - made:.1f} s, "
                f"first batch {time.perf_counter() - opened:.1f} s", file=sys.stderr,
            )  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in generators}
    spent: dict[str, list[float]] = {name: [] for name in generators}
    for _ in range(chosen.rounds):
        for name, each in generators.items():
            began, busy = time.perf_counter(), time.process_time()
            each.generate(indices)
            rates[name].append(len(indices) / (time.perf_counter() - began))
            spent[name].append((time.process_time() - busy) / len(indices))
    eager = rates[EAGER]
    rows = {}
    print(f"{'':20} images/s   of eager   CPU s/image   PSNR dB    SSIM   integer / float kernels")
    for name, found in rates.items():
        ratio = statistics.median(a / b for a, b in zip(found, eager, strict=True))
        beside = compare(pictures[EAGER], pictures[name])
        kernels = generators[name].describe().get("kernels", {}).get("unet")
        rows[name] = {
            "images_per_second": statistics.median(found),
            "over_torch_eager": ratio,
            "cpu_seconds_per_image": statistics.median(spent[name]),
            "psnr_db": beside["psnr_db"],
            "ssim": beside["ssim"],
        }
        psnr = "same" if beside["psnr_db"] is None else f"{beside['psnr_db']:.1f}"
        counts = [sum(kernels[kind].values()) for kind in ("integer", "float")] if kernels else []
        print(
            f"{name:20} {rows[name]['images_per_second']:8.3f} {ratio:10.3f} "
            f"{rows[name]['cpu_seconds_per_image']:13.3f} {psnr:>9} "
            f"{beside['ssim']:7.4f}   {' / '.join(map(str, counts))}"
        )
    print(json.dumps(rows))
    return int("ort fp32" in rows and rows["ort fp32"]["over_torch_eager"] < 1)


if __name__ == "__main__":
    sys.exit(main())
