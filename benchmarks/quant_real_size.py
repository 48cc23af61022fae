"""Quantize a UNet of SDXL's real size on a CPU, within its memory.

    python benchmarks/quant_real_size.py                 level 2.5, fp16, about 10 GB
    python benchmarks/quant_real_size.py --level 3 --alpha 0.5

A real calibration needs a GPU, so the statistics are SYNTHETIC: log-normal amax values of the right
shapes. What is measured is the application of a level, its peak memory and the checkpoint's size;
the numbers in the checkpoint mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def synthesize(file: Path, precision: str) -> None:
    """Write a statistics file of one call and twenty steps for `model=sdxl_random`."""
    from hydra import compose, initialize_config_dir

    from sdxl.config.load import load
    from sdxl.config.registry import register
    from sdxl.model.sources import open_source
    from sdxl.quant import calibrate
    from sdxl.quant.collect import Collector

    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = ["model=sdxl_random", f"precision={precision}", "quant=int8", "plan=true"]
        config = load(compose("quantize", overrides=words))
    source = open_source(config.model, config.seed)
    unet = source.component("unet", torch.float16, torch.device("meta"))
    table = calibrate.empty(
        Collector(unet), {**calibrate.settings_of(config, False), "synthetic": True}
    )
    generator = torch.Generator().manual_seed(0)
    steps = config.model.steps
    tensors = torch.empty(steps, len(table.tensors)).log_normal_(1, 0.5, generator=generator)
    width = max(columns.stop for columns in table.channels.values())
    table.add(tensors, torch.empty(steps, width).log_normal_(0, 1, generator=generator))
    table.timesteps = [float(step) for step in range(steps, 0, -1)]
    table.save(file)


def main() -> None:
    """Make the statistics, run `quantize.py` in a process of its own, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--level", default="2.5")
    parser.add_argument("--alpha", default="0.8")
    parser.add_argument("--precision", default="fp16")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "synthetic.safetensors"
        synthesize(file, arguments.precision)
        words = [
            "model=sdxl_random", f"precision={arguments.precision}", "quant=int8",
            f"quant_level={arguments.level}", f"alpha={arguments.alpha}", "model.device=cpu",
            f"quant.statistics={file}", "quant.report_prompts=0", f"hydra.run.dir={folder}/out",
        ]  # fmt: skip
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "quantize.py", *words], cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "SDXL_STORE": f"{folder}/store"},
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if done.returncode:
            sys.exit(done.stderr)
        outcome = json.loads(done.stdout.splitlines()[-1])
    print(
        json.dumps(
            {
                "level": arguments.level,
                "precision": arguments.precision,
                "layers": outcome["layers"],
                "statistics": "synthetic",
                "peak_rss_gb": round(outcome["peak_bytes"] / 1e9, 2),
                "checkpoint_gb": round(outcome["bytes"] / 1e9, 3),
                "seconds": round(seconds, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
