"""How fast the commands answer: `--help`, once more, `--cfg job`, completion, over `import hydra`.

    python benchmarks/startup.py

Exits 1 if one takes more than 3 times as long (medians of runs in turn).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WANTED = 3.0
RUNS = 7
AGAIN = "--help again"
ASKED = {"COMP_LINE": "python run.py scenario=", "COMP_POINT": "23"}


def seconds(words: list[str], **extra: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, check=True, env=os.environ | extra
    )
    return time.perf_counter() - began


def main() -> int:
    base = ["-c", "import hydra"]
    commands = {
        "--help": ["run.py", "--help"],
        AGAIN: ["run.py", "--help"],
        "--cfg job": ["run.py", "--cfg", "job"],
        "--info": ["run.py", "--info", "defaults"],
        "completion": ["run.py", "-sc", "query=bash"],
    }
    times: dict[str, list[float]] = {name: [] for name in ("import hydra", *commands)}
    with tempfile.TemporaryDirectory() as store:
        seconds(commands[AGAIN], SDXL_STORE=store)
        for _ in range(RUNS):
            times["import hydra"].append(seconds(base))
            for name, words in commands.items():
                there = store if name == AGAIN else f"{store}/none"
                times[name].append(seconds(words, SDXL_STORE=there, **ASKED))
    base_s = statistics.median(times["import hydra"])
    ratios = {name: statistics.median(found) / base_s for name, found in times.items()}
    for name, found in times.items():
        print(f"{name:14} {statistics.median(found):.3f} s   {ratios[name]:.2f} x import hydra")
    print(json.dumps({"ratios": {name: round(ratio, 3) for name, ratio in ratios.items()}}))
    return 0 if max(ratios.values()) <= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
