"""Runs the steps in children with limits of their own, and never loses what they have found.

A driver that was killed goes on where it was when the same command is typed again: steps whose
file says `ok` are not run twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu import results
from benchmarks.gpu.steps import SESSION_S, Step

ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.1
GRACE_S = 3.0
"""Between asking a child to end and ending it."""
OPEN_S = 60.0
"""To load a model whose kernels are compiled and whose checkpoint is there."""
RESERVE_S = 5.0
"""Left of the deadline for the summary."""


class Driver:
    """A session: where it writes, how long it may take, and how much of that is gone."""

    def __init__(
        self, out: Path, deadline_s: float, rehearse: bool = False, copy: Path | None = None,
        scale: float = 1.0,
    ) -> None:  # fmt: skip
        self.out, self.rehearse, self.copy, self.scale = out, rehearse, copy, scale
        self.began = time.monotonic()
        self.deadline_s = deadline_s
        out.mkdir(parents=True, exist_ok=True)
        self._log: IO[str] = (out / results.LOG).open("a")
        self._writing = threading.Lock()
        self._again: set[str] = set()

    def run(self, wanted: list[Step]) -> dict[str, Any]:
        """All steps, in order; returns the summary."""
        self.say(f"# session of {len(wanted)} steps, {self.deadline_s:.0f} s, into {self.out}")
        # What did not succeed in an earlier session is tried once more.
        self._again = {step.name for step in wanted if self._state(step) not in ("", "ok")}
        while group := self._next(wanted):
            self._child(group)
            self._finish()
        summary = self._finish()
        states = [self._state(step) for step in wanted]
        counts = ", ".join(f"{states.count(s)} {s}" for s in results.FINAL if s in states)
        self.say(f"# {counts} in {self.spent:.0f} s")
        return summary

    @property
    def spent(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds that a step may still take."""
        return self.deadline_s - RESERVE_S - self.spent

    def say(self, line: str) -> None:
        """A line to the terminal and to the log, with the second it came."""
        text = f"[{self.spent:6.1f}] {line.rstrip()}"
        with self._writing:
            print(text, flush=True)
            self._log.write(text + "\n")
            self._log.flush()

    def _state(self, step: Step) -> str:
        found = results.read(self.out / step.file)
        if found.get("rehearsal", self.rehearse) != self.rehearse:
            return ""  # a rehearsal's outcome is none
        return str(found.get("state", ""))

    def _over(self, step: Step) -> bool:
        state = self._state(step)
        return state == "ok" or (step.name not in self._again and state in results.FINAL)

    def _next(self, wanted: list[Step]) -> list[Step]:
        """The next steps of one group to run in a child; what cannot be run is skipped."""
        group: list[Step] = []
        for step in wanted:
            if self._over(step):
                continue
            if group and step.group != group[0].group:
                break
            needed = next((s for s in wanted if s.name == step.needs), None)
            if needed and self._over(needed) and self._state(needed) in ("failed", "skipped"):
                self._skip(step, f"{needed.name} did not succeed")
                continue
            if not group and self.left < step.least_s * self.scale:
                self._skip(step, f"{self.left:.0f} s left, {step.least_s:g} s needed")
                continue
            group.append(step)
        return group

    def _skip(self, step: Step, reason: str) -> None:
        self._again.discard(step.name)
        results.write(self.out / step.file,
                      {"state": "skipped", "reason": reason, "tells": step.tells})  # fmt: skip
        self.say(f"{step.file}: skipped, {reason}")

    def _child(self, group: list[Step]) -> None:
        """A child over these steps, until it ends or one of them takes too long."""
        names = ",".join(step.name for step in group)
        line = [sys.executable, "-m", "benchmarks.gpu.child", "--out", str(self.out),
                "--steps", names, *(["--rehearse"] if self.rehearse else [])]  # fmt: skip
        for step in group:  # an old outcome would look like this one's
            (self.out / step.file).unlink(missing_ok=True)
            self._again.discard(step.name)
        child = subprocess.Popen(
            line, cwd=ROOT, env=self._environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        assert child.stdout
        reader = threading.Thread(target=self._tee, args=(child.stdout,), daemon=True)
        reader.start()
        try:
            self._watch(child, group)
        finally:
            _end(child)
            reader.join(GRACE_S)
        self._settle(group, child.returncode)

    def _environment(self) -> dict[str, str]:
        more = {"PYTHONUNBUFFERED": "1", "HYDRA_FULL_ERROR": "1", "TRITON_DEFAULT_FP_FUSION": "1"}
        if self.rehearse:
            more |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
        paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        return {**os.environ, **more, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def _tee(self, lines: IO[str]) -> None:
        for line in lines:
            self.say(line)

    def _watch(self, child: subprocess.Popen[str], group: list[Step]) -> None:
        """Wait for the child; a step that takes too long, or the deadline, ends it."""
        at, since, running = 0, time.monotonic(), True
        while running:
            running = child.poll() is None
            while at < len(group) and self._state(group[at]) in results.FINAL:
                self._told(group[at])
                self._finish()
                at, since = at + 1, time.monotonic()
            taken = time.monotonic() - since
            over = at == len(group)  # then it only has to end
            limit_s = GRACE_S if over else self._limit_s(group[at], since, at == 0)
            if running and (taken > limit_s or self.left < 0):
                if not over:
                    self._time_out(group[at], taken)
                return
            if running:
                time.sleep(POLL_S)

    def _limit_s(self, step: Step, since: float, first: bool) -> float:
        """Its own limit, or less where the session's plan wants it over by a certain second.

        A step that counts on what another has loaded gets the time to load it again where it is
        the first of a process.
        """
        if first and step.needs:
            return (step.limit_s + OPEN_S) * self.scale
        limit_s = step.limit_s * self.scale
        if step.until_s:
            until_s = step.until_s * self.deadline_s / SESSION_S
            room = until_s - (since - self.began)
            limit_s = min(limit_s, max(room, step.least_s * self.scale))
        return limit_s

    def _time_out(self, step: Step, taken: float) -> None:
        file = self.out / step.file
        known = results.read(file)
        why = "the session's deadline" if self.left < 0 else f"its limit, {taken:.0f} s"
        results.write(file, {**known, "state": "timed out", "tells": step.tells,
                             "seconds": round(taken, 1),
                             "reason": f"ended at {why}; `found` is what it had"})  # fmt: skip
        self.say(f"{step.file}: ended at {why}")

    def _settle(self, group: list[Step], status: int | None) -> None:
        """A child that died in the middle of a step: the step has failed, the rest goes on."""
        begun = [step for step in group if self._state(step) == "running"]
        for step in begun:
            known = results.read(self.out / step.file)
            text = f"the process died (status {status})"
            results.write(self.out / step.file,
                          {**known, "state": "failed", "error": {"text": text}})  # fmt: skip
            self.say(f"{step.file}: {text}")
        if not any(self._state(step) for step in group):
            # It could not even begin: nothing would change the second time.
            results.write(self.out / group[0].file, {
                "state": "failed", "tells": group[0].tells,
                "error": {"text": f"the process ended with {status} before its first step"},
            })  # fmt: skip

    def _told(self, step: Step) -> None:
        found = results.read(self.out / step.file)
        told = found.get("line") or found.get("error", {}).get("text", "")
        self.say(f"{step.file}: {found.get('state')} in {found.get('seconds')} s. {told}")

    def _finish(self) -> dict[str, Any]:
        facts = {"seconds": round(self.spent, 1), "rehearsal": self.rehearse,
                 "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}  # fmt: skip
        summary = results.summarize(self.out, facts)
        if self.copy:
            results.copy(self.out, self.copy)
        return summary


def _end(child: subprocess.Popen[str]) -> None:
    """End the child and whatever it has started in its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            break
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        if number is signal.SIGTERM:
            continue  # its own children may still be there
    child.wait()
