"""What a sweep costs around its measurements.   python benchmarks/sweep_overhead.py

A cell: the fake backend under the real LoadGen, MLflow on SQLite, wall time a cell less LoadGen's
own. Resume: the same sweep of 24 complete cells again, wall time of 24 less that of 2.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAST = ("backend=fake", "scenario.min_duration_ms=0", "backend.sample_ms=0.5", "limit=8")
CELL_LIMIT_S, RESUME_LIMIT_S = 5.0, 3.0


def sweep(folder: Path, name: str, cells: int) -> tuple[float, dict]:
    """(seconds, JSON line) of a sweep over that many seeds."""
    words = ["-m", *FAST, f"seed=range({cells})", f"hydra.sweep.dir={folder / name}"]
    env = os.environ | {
        "SDXL_STORE": str(folder / "store"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *words], env=env, capture_output=True, text=True
    )
    took = time.perf_counter() - began
    assert done.returncode == 0, done.stderr[-3000:]
    return took, json.loads(done.stdout.splitlines()[-1])


def measuring(said: dict) -> float:
    """Seconds that LoadGen itself took in the cells of a sweep."""
    found = [json.loads(Path(path).read_text()) for path in said["records"]]
    return sum(record["durations"]["measure_s"] for record in found)


def main() -> int:
    """Print both figures; exit 1 if one is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=24)
    cells = parser.parse_args().cells
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sweep(folder, "first", 2)  # makes the database
        whole, said = sweep(folder, "whole", cells)
        assert said["ok"] == cells and said["cached"] == 2, said
        few, _ = sweep(folder, "few", 2)
        again, said = sweep(folder, "again", cells)
        assert said["cached"] == cells, said
        cell = (whole - few - measuring(said)) / (cells - 2)
    resume = (again - few) / (cells - 2) * 10
    print(f"start-up with 2 finished cells   {few:6.2f} s")
    print(f"overhead of a cell               {cell:6.2f} s, limit {CELL_LIMIT_S:g} s")
    print(f"resume of 10 finished cells      {resume:6.2f} s, limit {RESUME_LIMIT_S:g} s")
    good = cell < CELL_LIMIT_S and resume < RESUME_LIMIT_S
    facts = {"start_up_s": few, "cell_s": cell, "resume_10_s": resume}
    print(json.dumps({"status": "ok" if good else "failed", **facts, "exit_code": int(not good)}))
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
