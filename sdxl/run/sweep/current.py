"""The command of this process: its words, how its jobs ended, and the sweep if it is one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from sdxl.config.words import Words, read
from sdxl.core.command import NOT_STARTED, Outcome
from sdxl.core.errors import UserError
from sdxl.core.paths import ROOT

if TYPE_CHECKING:
    from sdxl.run.sweep.run import Sweep

_HELP = ("-h", "--help")
_HYDRAS = ("--hydra-help", "--version", "-c", "--cfg", "-i", "--info", "-sc", "--shell-completion")
"""Words that Hydra answers by itself."""


class Command:
    """What was typed, and what came of it; `failure` is the command's own, not a job's."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.program, self.words = argv[0], list(argv[1:])
        self.name = Path(self.program).stem
        self.outcomes: list[Outcome] = []
        self.failure: Outcome | None = None
        self.interrupted = False
        self.sweep: Sweep | None = None
        self.read: Words | None = None

    @property
    def asks_help(self) -> bool:
        """Whether `--help` is all that is wanted."""
        return any(word in _HELP for word in self.words)

    @property
    def asks_hydra(self) -> bool:
        """Whether Hydra's own information is all that is wanted."""
        return not self.asks_help and any(word.split("=")[0] in _HYDRAS for word in self.words)

    def run(self, main: Callable[[], None]) -> None:
        """Call Hydra's entry point; a sweep is announced before, which may be all it asks for."""
        from sdxl.config import explain

        read = self.understand()
        explain.check(self.name, read)
        several = bool({"-m", "--multirun"} & {*read.options})
        if several:  # a launcher's processes import our modules
            paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
            os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
        if self.name == "run" and several:
            from sdxl.run.sweep.run import Sweep

            self.sweep = Sweep(self.name, read.overrides, read.config_dir)
            self.sweep.announce()
        if not self.sweep:
            main()
        elif not self.sweep.only_plan:
            with self.sweep.running(), self._sweep_dir(self.sweep.folder):
                main()

    def understand(self) -> Words:
        """The words in Hydra's order, options first, which `sys.argv` has from now on."""
        self.read = read(self.name, self.words)
        self.words = [*self.read.options, *self.read.overrides]
        sys.argv = [self.program, *self.words]
        return self.read

    def ended(self) -> list[Outcome]:
        """How everything ended: jobs, the sweep's cells unless none began, the command itself."""
        cells = self.sweep.outcomes() if self.sweep else []
        if self.failure and all(cell.status == NOT_STARTED for cell in cells):
            cells = []
        return [*self.outcomes, *cells, *([self.failure] if self.failure else [])]

    @contextmanager
    def _sweep_dir(self, folder: Path) -> Iterator[None]:
        """Hydra reads `sys.argv`; every process has to mean the same folder, whatever the time."""
        quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
        before, sys.argv = sys.argv, [self.program, *self.words, f"hydra.sweep.dir='{quoted}'"]
        try:
            yield
        finally:
            sys.argv = before


_command: ContextVar[Command | None] = ContextVar("command", default=None)


@contextmanager
def begun(argv: Sequence[str]) -> Iterator[Command]:
    """A command as that of this process, until the end of the block."""
    token = _command.set(Command(argv))
    try:
        yield command()
    finally:
        _command.reset(token)


def command() -> Command:
    """The command that runs; in a launcher's process, which has none, a new one."""
    return _command.get() or Command(sys.argv)


def elsewhere() -> bool:
    """Whether this is a launcher's process, whose outcomes the command does not see."""
    return _command.get() is None


def sweep() -> Sweep:
    """The sweep that this command looked ahead to."""
    found = command().sweep
    if found is None:
        raise UserError("a sweep is asked for with -m", "hydra.mode=MULTIRUN", fix="run.py -m ...")
    return found
