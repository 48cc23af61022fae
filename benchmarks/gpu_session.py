"""The whole measurement on a fresh GPU machine in one command, at most ten minutes of it.

    python benchmarks/gpu_session.py
    python benchmarks/gpu_session.py --only ladder
    python benchmarks/gpu_session.py model=tiny precision=fp32 limit=2 model.steps=2

Kernels alone, the ladder (Offline, batches of 8), its best rung at other batch sizes, then as
Server with the 20 s limit and as SingleStream. Words are handed to every `run.py`. What ten minutes
do not hold is named at the end; the same command typed again goes on there, because finished cells
are found in the ledger. Nothing is downloaded: docs/speed.md says how to bring the wheels of
`gpu_wheels.txt` to a machine that has torch and Triton. Not tried on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 570
"""Ten minutes, less what starting and stopping takes."""

WORDS = ("tracking=off", "rules=open", "scenario.min_duration_ms=1", "scenario.warmup_batches=1",
         "model=sdxl_random")  # fmt: skip
STAGES = ("kernels", "ladder", "batches", "scenarios")


class Session:
    """The commands run so far, and the time that is left."""

    def __init__(self, words: list[str]) -> None:
        self.words, self.began = words, time.monotonic()
        self.left_out: list[str] = []

    def run(self, *line: str) -> str:
        """Standard output of a command, shown as well; empty if its time was up."""
        left = LIMIT_S - (time.monotonic() - self.began)
        if left <= 0:
            self.left_out.append(" ".join(line))
            return ""
        print(f"# {' '.join(line)}", flush=True)
        process = subprocess.Popen(
            [sys.executable, *line], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, _ = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            out, _ = process.communicate()
            self.left_out.append(f"the end of: {' '.join(line)}")
        print(out, flush=True)
        return out

    def cells(self, *words: str) -> list[dict[str, Any]]:
        """The records of a sweep over rungs that have figures."""
        given = {word.partition("=")[0] for word in self.words}
        usual = [word for word in WORDS if word.partition("=")[0] not in given]
        out = self.run("run.py", "-m", "+experiment=gpu_ladder", *usual, *words, *self.words)
        try:
            paths = json.loads(out.splitlines()[-1])["records"]
        except (IndexError, ValueError, KeyError):
            return []
        found = [json.loads(Path(path).read_text()) for path in paths if path]
        return [record for record in found if record["performance"].get("images_per_second")]


def rung_of(record: dict[str, Any]) -> str:
    """The word that names a record's rung."""
    return next(word for word in record["command"].split() if word.startswith("+rung="))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=STAGES, action="append")
    arguments, words = parser.parse_known_args()
    wanted = arguments.only or STAGES
    session = Session(words)
    if "kernels" in wanted:
        session.run("benchmarks/kernels.py")
    best = "+rung=graphs"
    if {"ladder", "batches", "scenarios"} & set(wanted):
        ladder = session.cells("limit=8")  # where it was measured before, it costs a second
        if ladder:
            rates = {rung_of(each): each["performance"]["images_per_second"] for each in ladder}
            best = max(rates, key=rates.__getitem__)
    if "batches" in wanted:
        session.cells("limit=32", f"+rung=plain,{best[6:]}", "backend.batch_size=1,32")
    if "scenarios" in wanted:
        session.cells("limit=32", best, "scenario=Server", "scenario.min_duration_ms=30000")
        session.cells("limit=8", best, "scenario=SingleStream", "backend.batch_size=null",
                      "backend.overlap=false", "scenario.min_query_count=8")  # fmt: skip
        # One batch after another is what overlaps: the ladder's eight pictures are one batch.
        session.cells("limit=32", "+rung=fp8,overlap")
    for line in session.left_out:
        print(f"# no time for: {line}")


if __name__ == "__main__":
    main()
