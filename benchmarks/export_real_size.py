"""Export SDXL's four graphs at their real size on a CPU: seconds, CPU seconds by step, peak memory.

    python benchmarks/export_real_size.py                          a temporary store, about 10 GB
    python benchmarks/export_real_size.py --store FOLDER --parity  kept; outputs beside torch's

Runs `export.py model=sdxl_random`, whose graphs are exported each in a process of its own, and
reads what the manifests say. Exits 1 if the UNet took more than 1.3 times its weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST = 1.3
"""Peak memory over the size of the weights."""


def main() -> int:
    """Export into the store and print one line for each graph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--size", default="1024x1024", help="width and height of the pictures")
    parser.add_argument("--store")
    parser.add_argument("--parity", action="store_true", help="takes a forward of each network")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "model=sdxl_random",
            f"size={chosen.size}",
            f"precision={chosen.precision}",
            f"export.parity={str(chosen.parity).lower()}",
            "scenario.startup_s=7200",  # beside other work the UNet has taken half an hour
            f"hydra.run.dir={folder}/run",
        ]
        done = subprocess.run(
            [sys.executable, "export.py", *words],
            cwd=ROOT, env=os.environ | {"SDXL_STORE": chosen.store or f"{folder}/store"},
            stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        outcome = json.loads(done.stdout.splitlines()[-1])
        if done.returncode:
            print(outcome["reason"])
            return 1
        shares, steps = {}, {}
        for piece in outcome["pieces"]:
            weights = (Path(piece["path"]) / "model.onnx.data").stat().st_size
            shares[piece["graph"]] = piece["peak_bytes"] / weights
            manifest = json.loads((Path(piece["path"]) / "manifest.json").read_text())
            steps[piece["graph"]] = manifest["settings"]["cpu_seconds"]
            print(
                f"{piece['graph']:15} weights {weights / 1e9:6.3f} GB  {piece['seconds']:7.1f} s  "
                f"peak {piece['peak_bytes'] / 1e9:6.3f} GB = {shares[piece['graph']]:.3f} x  "
                f"{'built' if piece['built'] else 'found'}"
            )
            print(" " * 15, ", ".join(f"{s} {t:.1f}" for s, t in steps[piece["graph"]].items()))
    told = {"peak_over_weights": shares, "seconds": outcome["seconds"], "cpu_seconds": steps}
    print(json.dumps(told))
    return int(shares["unet"] > MOST)


if __name__ == "__main__":
    sys.exit(main())
