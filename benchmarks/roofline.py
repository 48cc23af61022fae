"""Is the roofline the same three times, and does no run pass it?

    python benchmarks/roofline.py             on a quiet machine
    python benchmarks/roofline.py --loaded    beside a program that spins on every processor

Three runs of the bundled model, each with a store of its own, so that each measures its peaks.
Exits 1 if two limits are more than 10 % apart, or a share is above 100 %. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
APART = 1.10
SPIN = [sys.executable, "-c", "while True: pass"]
PEAKS = ("images_per_second", "matrix_tflops", "memory_gb_per_s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loaded", action="store_true", help="beside spinning programs")
    parser.add_argument("--limit", type=int, default=16, help="pictures of a run")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        for _ in range((os.cpu_count() or 1) if chosen.loaded else 0):
            spinning = stack.enter_context(subprocess.Popen(SPIN))
            stack.callback(spinning.kill)
        found = [roofline(chosen.limit) for _ in range(3)]
    apart = {name: max(r[name] for r in found) / min(r[name] for r in found) for name in PEAKS}
    for name in PEAKS:
        each = ", ".join(f"{one[name]:.4g}" for one in found)
        print(f"{name:18} {each}: {100 * (apart[name] - 1):.1f} % apart")
    print("share              " + ", ".join(f"{one['share']:.1%}" for one in found))
    good = apart["images_per_second"] <= APART and all(one["share"] <= 1 for one in found)
    print(json.dumps({"loaded": chosen.loaded, "runs": found, "apart": apart, "ok": good}))
    return 0 if good else 1


def roofline(limit: int) -> dict[str, float]:
    """What one run says of its limit, with an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"limit={limit}", "quality=none", "tracking=off", f"hydra.run.dir={folder}/run"]
        subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *words], check=True, capture_output=True,
            env={**os.environ, "SDXL_STORE": f"{folder}/store"},
        )  # fmt: skip
        record = json.loads((Path(folder) / "run/record.json").read_text())
    said: dict[str, float] = record["performance"]["roofline"]
    return said


if __name__ == "__main__":
    sys.exit(main())
