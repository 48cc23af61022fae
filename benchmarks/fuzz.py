"""Odd command lines and odd values: no traceback, no hang, no wrong exit code, no lost JSON line.

    python benchmarks/fuzz.py                                # 1,000 lines, 50,000 values, 40 runs
    python benchmarks/fuzz.py --seconds 60 --seed 3          # a slice, in processor seconds
    python benchmarks/fuzz.py --line 417                     # one line again, all it prints shown

Case N of seed S is always the same. What was tried is kept in `--out`, and a second call goes on.
Each line is a command in a fork of this process, which has imported what commands import, or with
`--processes` in a process of its own (seconds a line); most say `plan=true`, a share measures, in
processes of their own. Values go through `sdxl.config.load.load`, and what it accepts must suit
LoadGen, clocks and JSON. Exits 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import _forks
import _fuzz_cases as cases
from _fuzz_values import HANG_S, Values

from sdxl.core.paths import ROOT

INFORMS = {
    *("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info"),
    *("-sc", "--shell-completion"),
}
"""Words whose answer is a text; a JSON line is not asked for."""
EXIT_CODES = {"ok": 0, "planned": 0, "skipped": 0, "invalid": 3}
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass
class Ended:
    """How a command ended, and what it said."""

    code: Any
    out: str
    err: str

    def line(self) -> dict[str, Any] | None:
        """The JSON line."""
        try:
            found = json.loads(self.out.rstrip().splitlines()[-1])
        except (ValueError, IndexError):
            return None
        return found if isinstance(found, dict) else None


def faults(ended: Ended, words: list[str]) -> Iterator[str]:
    """What is wrong with an ending."""
    if ended.code == "hang":
        yield f"no end within {HANG_S:g} s"
        return
    both = ended.out + ended.err
    if "Traceback (most recent call last)" in both:
        yield "a traceback: " + both.rstrip().splitlines()[-1][:300]
    if ended.code not in (0, 1, 2, 3):
        yield f"exit code {ended.code}"
    if found := CONTROL.search(both):
        yield f"the control character {found.group()!r} was printed"
    line = ended.line()
    if line is None:
        if ended.code != 0 or not {word.split("=")[0] for word in words} & INFORMS:
            yield "no JSON line"
        return
    if line.get("exit_code") != ended.code:
        yield f"exit code {ended.code}, the JSON line says {line.get('exit_code')}"
    code = EXIT_CODES.get(str(line.get("status")), 1)
    if code != (1 if ended.code == 2 else ended.code):
        yield f"exit code {ended.code} with status {line.get('status')}"
    if ended.code == 2 and "--- error" not in ended.err and "refused:" not in both:
        yield "refused without a message"
    if line.get("record") and line.get("status") != "planned":
        record = json.loads(Path(line["record"]).read_text())
        if record["status"] != line["status"]:
            yield f"the record says {record['status']}, the JSON line {line['status']}"


def in_a_fork(words: list[str]) -> Ended:
    """A command in a fork of this process."""
    code, *said = _forks.run(words, HANG_S)
    return Ended("hang" if code == _forks.LATE else code, *said)


def in_its_own(words: list[str]) -> Ended:
    """A command in a process of its own."""
    line = [sys.executable, "-m", "sdxl", *words]
    try:
        done = subprocess.run(
            line, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=4 * HANG_S,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        said = [each.decode() if each else "" for each in (error.stdout, error.stderr)]
        return Ended("hang", *said)
    return Ended(done.returncode, done.stdout, done.stderr)


def line_case(seed: int, number: int, folder: Path) -> list[str]:
    """Case `number` of the command lines."""
    name, words = cases.line(seed, number, folder / "damaged")
    takes = name in ("run", "quantize", "export", "train")
    return [name, *words, *(places(folder) if takes else ())]


def run_case(seed: int, number: int, folder: Path) -> list[str]:
    """Case `number` of the runs that measure."""
    return ["run", *cases.real_line(seed, number), *places(folder)]


def places(folder: Path) -> list[str]:
    """Where a command writes."""
    return [f"hydra.{each}.dir={folder}/{each}" for each in ("run", "sweep")]


class Log:
    """What was tried, one JSON object a line; read again by the next call."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.path = folder / f"seed-{seed}.jsonl"
        text = self.path.read_text() if self.path.exists() else ""
        whole = [each for each in text.splitlines(keepends=True) if each.endswith("\n")]
        self.rows = [json.loads(each) for each in whole]
        self.done = {(row["kind"], row["number"]) for row in self.rows}

    def add(self, row: dict[str, Any]) -> None:
        """Keep a case."""
        self.rows.append(row)
        with self.path.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def world(folder: Path) -> None:
    """Everything a command may write to is below `folder`; no network is asked."""
    os.environ |= {
        "SDXL_STORE": str(folder / "store"),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "COLUMNS": "200",
        **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9"),
    }
    cases.damage(folder / "damaged")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=int, default=1000, help="command lines")
    parser.add_argument("--runs", type=int, default=40, help="runs in processes of their own")
    parser.add_argument("--values", type=int, default=50_000, help="configurations")
    parser.add_argument("--processes", action="store_true", help="no forks: each line starts anew")
    parser.add_argument("--seconds", type=float, help="processor seconds, then stop")
    parser.add_argument("--line", type=int, help="only this line; what it prints is shown")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "sdxl-fuzz")
    chosen = parser.parse_args()
    folder = chosen.out.resolve()
    world(folder)
    os.chdir(folder)
    command = in_its_own if chosen.processes else in_a_fork
    log = Log(folder, chosen.seed)
    left = list(due(chosen, log))
    if not chosen.processes and (left or chosen.line is not None):
        _forks.preload()
    if chosen.line is not None:
        words = line_case(chosen.seed, chosen.line, folder)
        ended = command(words)
        print(words, ended.out, ended.err, f"exit code {ended.code!r}", sep="\n")
        print(*faults(ended, words), sep="\n")
        return 0
    for kind, number in left:
        if chosen.seconds and spent() > chosen.seconds:
            break
        log.add(one(kind, chosen.seed, number, folder, command))
        for fault in log.rows[-1]["faults"]:
            print(f"{kind} {number}: {fault}\n    {log.rows[-1]['words']}", flush=True)
    return told(log)


def due(chosen: argparse.Namespace, log: Log) -> Iterator[tuple[str, int]]:
    """What is left to try, the kinds mixed, so that a slice has some of each."""
    counts = {"line": chosen.lines, "run": chosen.runs, "value": chosen.values}
    places = [((n + 0.5) / counts[kind], kind, n) for kind in counts for n in range(counts[kind])]
    yield from ((kind, n) for _, kind, n in sorted(places) if (kind, n) not in log.done)


_values: Values | None = None


def spent() -> float:
    """Processor seconds of this process and of those that it waited for."""
    return sum(os.times()[:4])


def one(
    kind: str, seed: int, number: int, folder: Path, command: Callable[[list[str]], Ended]
) -> dict[str, Any]:
    """Try one case; returns its row."""
    global _values
    began = spent()
    code: Any = None
    if kind == "value":
        _values = _values or Values()
        words, wrong = _values.case(seed, number)
    else:
        words = (line_case if kind == "line" else run_case)(seed, number, folder)
        ended = command(words) if kind == "line" else in_its_own(words)
        wrong, code = list(faults(ended, words)), ended.code
    seconds = round(spent() - began, 3)
    return {"kind": kind, "number": number, "words": words, "code": code, "faults": wrong,
            "cpu_s": seconds}  # fmt: skip


def told(log: Log) -> int:
    """The sum as a JSON line; returns the exit code."""
    failed = [row for row in log.rows if row["faults"]]
    counts = Counter(row["kind"] for row in log.rows)
    codes = Counter(str(row["code"]) for row in log.rows if row["kind"] != "value")
    slowest = max((row["cpu_s"] for row in log.rows), default=0.0)
    print(json.dumps({**counts, "failed": len(failed), "exit_codes": codes,
                      "slowest_cpu_s": slowest, "log": str(log.path)}))  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
