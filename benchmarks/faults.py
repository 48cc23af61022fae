"""Faults injected on purpose: no traceback, a truthful exit code, nothing of the user's lost.

    python benchmarks/faults.py                          # all of them
    python benchmarks/faults.py --only 'files/*'         # some, by their names
    python benchmarks/faults.py --list

Each fault has a process and a folder of its own, with files of the user's in it. What was tried is
kept in `--out`, and a second call goes on. Exits 1 if anything failed.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import fuzz
from _fault_cases import Case, all_cases

MINE = {"notes.txt": "mine", "out/images/holiday.png": "mine"}
"""Files of the user's, which must be as they were."""
LONGEST_S = 120


def tried(case: Case, folder: Path) -> fuzz.Ended:
    """The command with the fault injected."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    case.prepare(folder)
    for name, text in MINE.items():
        if not (folder / "out").is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    words = [word.format(folder=folder) for word in case.words]
    places = [f"hydra.{each}.dir={folder}/out" for each in ("run", "sweep")]
    run = shlex.join([sys.executable, str(fuzz.ROOT / "run.py"), *words, *places])
    own = {name: value.replace("{folder}", str(folder)) for name, value in case.env.items()}
    around = {
        "SDXL_STORE": f"{folder}/store", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "HF_HOME": f"{folder}/hf", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    line = case.shell.format(run=f"exec {run}" if case.signal else run, folder=folder)
    process = subprocess.Popen(
        [shutil.which("bash") or "bash", "-c", line], env=os.environ | around | own, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, errors="replace", start_new_session=True,
    )  # fmt: skip
    if case.signal:
        time.sleep(case.after_s)
        process.send_signal(signal.Signals[case.signal])
    try:
        out, err = process.communicate(timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return fuzz.Ended("hang", *process.communicate())
    return fuzz.Ended(process.returncode, out, err)


def faults(case: Case, ended: fuzz.Ended, folder: Path) -> Iterator[str]:
    """What did not hold."""
    if case.stdout or ended.code == "hang":
        yield from fuzz.faults(ended, ["run"])
    elif "Traceback" in ended.err:
        yield "a traceback"
    if ended.code not in case.codes:
        yield f"exit code {ended.code}, expected one of {case.codes}: {ended.err[-300:]}"
    if not (folder / "out").is_file():
        for name, text in MINE.items():
            if not (folder / name).is_file() or (folder / name).read_text() != text:
                yield f"{name} of the user's was lost"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names, as a shell's glob")
    parser.add_argument("--list", action="store_true", help="the names, and nothing is run")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "sdxl-faults")
    chosen = parser.parse_args()
    wanted = [case for case in all_cases() if fnmatch.fnmatch(case.name, chosen.only)]
    if chosen.list:
        print(*(f"{case.name}  {case.codes}" for case in wanted), sep="\n")
        return 0
    chosen.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it,
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and so would the commands
    log = fuzz.Log(chosen.out.resolve(), 0)
    for case in wanted:
        if ("fault", case.name) in log.done:
            continue
        folder = chosen.out.resolve() / "world"
        ended = tried(case, folder)
        wrong = list(faults(case, ended, folder))
        log.add({"kind": "fault", "number": case.name, "code": ended.code, "faults": wrong})
        print(f"{case.name:<44} {ended.code!s:<5} {'; '.join(wrong) or 'holds'}", flush=True)
    return told(log, {case.name for case in wanted})


def told(log: fuzz.Log, names: set[str]) -> int:
    """The table by kind, and the sum as a JSON line; returns the exit code."""
    rows = [row for row in log.rows if row["number"] in names]
    failed = [row["number"] for row in rows if row["faults"]]
    counts = Counter(row["number"].split("/")[0] for row in rows)
    bad = Counter(name.split("/")[0] for name in failed)
    for kind, count in counts.items():
        print(f"{kind:<12} {count:>4} tried {bad[kind]:>4} failed")
    print(json.dumps({"faults": len(rows), "failed": failed, "log": str(log.path)}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
