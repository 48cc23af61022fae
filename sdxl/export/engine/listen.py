"""What TensorRT says while it builds: its log, kept in a file, and how far it is."""

from __future__ import annotations

import threading
from typing import Any, TextIO

from sdxl.core.progress import Report

LISTING = "Layers:\n"
"""How the one message begins that lists the finished engine's layers."""
KEPT_ERRORS = 20


def logger(trt: Any, file: TextIO) -> Any:
    """A TensorRT logger that writes to `file`, while it is open, all but the verbose chatter.

    `.errors` holds the last error messages, `.listing` the engine's layers as the builder lists
    them (`ProfilingVerbosity.DETAILED`), `.heard` the number of messages of any kind.
    """
    severities = {
        trt.ILogger.INTERNAL_ERROR: "internal error",
        trt.ILogger.ERROR: "error",
        trt.ILogger.WARNING: "warning",
        trt.ILogger.INFO: "info",
    }

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.listing = ""
            self.heard = 0

        def log(self, severity: Any, msg: str) -> None:
            self.heard += 1
            name = severities.get(severity)
            if name is None:
                if msg.startswith(LISTING):
                    self.listing = msg
                return
            if name.endswith("error"):
                self.errors = [*self.errors, msg.strip()][-KEPT_ERRORS:]
            if not file.closed:  # TensorRT's objects still talk when they are freed
                file.write(f"{name}: {msg}\n")
                file.flush()

    return Log()


def monitor(trt: Any, log: Any, phase: str, report: Report) -> Any:
    """A TensorRT progress monitor that reports the innermost phase with steps.

    TensorRT calls it from several threads. The number of log messages is part of the text, so
    that a long phase without steps still shows that something happens.
    """
    steps: dict[str, list[int]] = {}
    order: list[str] = []
    lock = threading.Lock()

    def tell() -> None:
        name = order[-1] if order else "finishing"
        done, expected = steps.get(name, [0, 0])
        message: dict[str, Any] = {"phase": phase, "text": f"{name} ({log.heard} messages)"}
        if expected > 1:
            message |= {"done": done, "expected": expected}
        report(message)

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with lock:
                steps[phase_name] = [0, num_steps]
                order.append(phase_name)
                tell()

        def step_complete(self, phase_name: str, step: int) -> bool:
            with lock:
                steps[phase_name][0] = step + 1
                if step * 20 // steps[phase_name][1] != (step + 1) * 20 // steps[phase_name][1]:
                    tell()
            return True

        def phase_finish(self, phase_name: str) -> None:
            with lock:
                if phase_name in order:
                    order.reverse()
                    order.remove(phase_name)  # the innermost of that name
                    order.reverse()
                tell()

    return Monitor()
