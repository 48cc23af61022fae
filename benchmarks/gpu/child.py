"""One process of the session: runs steps of a group in order and writes what each has found.

    python -m benchmarks.gpu.child --out OUT --steps fp8,profile [--rehearse]

Ends at the first step that fails: after an error on the device nothing else can be trusted.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu import compiling, results, steps
from benchmarks.gpu.shapes import ROWS, SMALL, Shapes, real

FAILED = 3
"""Exit status after a step that failed: the others have not been begun."""


@dataclass
class Context:
    """What a step is given; `state` is shared by the steps of one process."""

    out: Path
    rehearse: bool
    note: Callable[..., None]
    state: dict[str, Any] = field(default_factory=dict)
    rows: int = ROWS  # of the UNet, where a step measures kernels alone

    @property
    def device(self) -> Any:
        """The GPU, or the processor in a rehearsal."""
        import torch

        return torch.device("cpu" if self.rehearse else "cuda")

    @property
    def shapes(self) -> Shapes:
        """What to measure kernels on."""
        return SMALL if self.rehearse else real(self.rows)

    @property
    def work(self) -> Path:
        """A folder for what need not outlast the session."""
        folder = self.out / "work"
        folder.mkdir(exist_ok=True)
        return folder


def die_with_parent() -> None:
    """Let Linux kill this process when its parent ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def run(step: steps.Step, context: Context) -> bool:
    """Run one step and write its file; whether it succeeded."""
    file = context.out / step.file
    began = time.monotonic()
    found: dict[str, Any] = {}
    compiled: list[dict[str, Any]] = []

    def write(state: str, **more: Any) -> None:
        seconds = round(time.monotonic() - began, 1)
        results.write(file, {"state": state, "seconds": seconds, "tells": step.tells, **more,
                             **({"line": found.pop("line")} if "line" in found else {}),
                             **({"compiled": compiled} if compiled else {}),
                             "rehearsal": context.rehearse, "found": found})  # fmt: skip

    def note(**news: Any) -> None:
        found.update(news)
        write("running")

    context.note = note
    note()
    module, _, name = step.run.partition(":")
    try:
        function = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)
        with compiling.watched(compiled):
            found.update(function(context, **step.given) or {})
    except Exception as error:  # whatever it is, the session goes on and somebody reads it
        text = traceback.format_exc()
        print(text, flush=True)
        write("failed", error={"type": type(error).__name__, "text": str(error)[:4000],
                               "trace": text[-6000:]})  # fmt: skip
        return False
    write("ok")
    if compiled:
        print(compiling.line(compiled), flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", required=True)
    parser.add_argument("--rehearse", action="store_true")
    asked = parser.parse_args()
    parent = os.getppid()
    die_with_parent()
    if os.getppid() != parent:
        return FAILED
    context = Context(asked.out, asked.rehearse, lambda **_: None)
    for step in steps.chosen(asked.steps.split(","), False):
        print(f"## {step.file}: {step.tells}", flush=True)
        if not run(step, context):
            return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
