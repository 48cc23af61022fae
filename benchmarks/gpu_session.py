"""Measure a fresh GPU machine in two calls of at most ten minutes, and lose nothing.

    python benchmarks/gpu_session.py --list
    python benchmarks/gpu_session.py --out results/gpu --deadline-s 560
    python benchmarks/gpu_session.py --out results/gpu --second --left-s 300
    python benchmarks/gpu_session.py --out /tmp/rehearsal --rehearse

Each step runs in a child with a limit of its own and writes `OUT/NN-name.json` at once, also what
it had when its time was up; `summary.json` and `summary.md` have all of it. A step that fails costs
no other. The same command typed again runs what has not succeeded; `--resume summary.json` knows
what another machine's session has. SDXL's true shapes, random weights, synthetic ranges: nothing is
downloaded. `--left-s`: what the loan still has when the command is typed; the deadline is what of
it starting and giving back the machine leaves. `--rehearse` goes the same way on a CPU with the
bundled model. Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import results, steps  # noqa: E402
from benchmarks.gpu.driver import Driver  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the steps and their limits")
    parser.add_argument("--out", type=Path, help="folder for results")
    parser.add_argument("--copy", type=Path, help="keep summary and log (three files) there, too")
    parser.add_argument("--deadline-s", type=float, default=560.0, help="seconds for everything")
    parser.add_argument("--left-s", type=float, help="in place of a deadline: device time left")
    parser.add_argument("--second", action="store_true", help="the steps of the second call")
    parser.add_argument("--only", help="steps by name, with commas between")
    parser.add_argument("--resume", type=Path, help="summary.json whose `ok` steps are not run")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, everything in small")
    parser.add_argument("--limit-scale", type=float, default=1.0, help="factor of all limits")
    asked = parser.parse_args()
    if asked.list:
        print(steps.listed())
        return 0
    if not asked.out:
        parser.error("--out FOLDER is needed")
    wanted = steps.chosen(asked.only.split(",") if asked.only else None, asked.second)
    out = asked.out.absolute()
    deadline_s = asked.deadline_s if asked.left_s is None else steps.deadline_of(asked.left_s)
    driver = Driver(out, deadline_s, asked.rehearse, asked.copy, asked.limit_scale)
    if asked.resume:
        driver.say(f"# {results.resume(asked.resume, out)} steps known from {asked.resume}")
    summary = driver.run(wanted)
    print((out / results.TABLE).read_text())
    states = [step["state"] for step in summary["steps"].values()]
    return 0 if all(state == "ok" for state in states) else 1


if __name__ == "__main__":
    sys.exit(main())
