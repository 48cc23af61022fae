"""Build the engine of SDXL's real-size UNet on a machine without a GPU, with TensorRT-RTX.

    python benchmarks/engine_real_size.py                      fp16, random weights
    python benchmarks/engine_real_size.py quant=int8 quant_level=3 quant.statistics=FILE

About 19 GB of memory. The graph is exported first if the store has none; the figures are of the
engine's own process. Words given are passed on to `export.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run `export.py` and print what the UNet's engine took and is."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "backend=trt", "backend.flavor=rtx", "model=sdxl_random", "precision=fp16",
            "backend.compute_capabilities=[sm89]", "backend.batch_size=1", *sys.argv[1:],
            f"hydra.run.dir={folder}",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "export.py", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
    if done.returncode:
        sys.exit(done.stdout)
    pieces = json.loads(done.stdout.splitlines()[-1])["pieces"]
    for piece in pieces:
        if piece["kind"] == "engine":
            print(json.dumps(piece))


if __name__ == "__main__":
    main()
