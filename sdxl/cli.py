"""The frame of every command: panels for mistakes, one JSON line at the end, the exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig

from sdxl.config import guard, shorthand
from sdxl.config.schema import Config
from sdxl.core import ends, kept_help, secrets, streams, terminal
from sdxl.core.command import Outcome, print_line, shown, summary
from sdxl.core.errors import FAILED, OK, USER, SdxlError
from sdxl.core.paths import CONF
from sdxl.core.progress import Say, silent
from sdxl.run import shared
from sdxl.run.sweep import current
from sdxl.run.sweep.current import Command

Action = Callable[[Config, Path, Say | None], Outcome]
"""What a job does: configuration, folder, who is told how far it is (None: the terminal)."""


def job(action: Action, cfg: DictConfig) -> None:
    """Run one job of a command; whatever happens becomes an outcome, so a multirun goes on."""
    from hydra.core.hydra_config import HydraConfig

    out_dir = Path(HydraConfig.get().runtime.output_dir)
    this = current.command()
    if this.sweep:
        this.sweep.measure(out_dir, lambda say: _outcome(action, cfg, out_dir, say))
    elif not shared.stopped(out_dir.parent):
        # In a launcher's process the sweep's own shows the table, and the record says it all.
        say = silent if shared.of_cell(out_dir) else None
        try:
            this.outcomes.append(_outcome(action, cfg, out_dir, say))
            if say is None and current.elsewhere() and this.outcomes[-1].exit_code:
                raise SdxlError(this.outcomes[-1].reason or "the job failed")  # for the launcher
        except KeyboardInterrupt as stop:
            this.outcomes.append(getattr(stop, "outcome", None) or _interrupted())
            raise


def _outcome(action: Action, cfg: DictConfig, out_dir: Path, say: Say | None) -> Outcome:
    """The action's outcome, or the failure as one; Ctrl-C goes on up."""
    from hydra.core.hydra_config import HydraConfig

    from sdxl.config.load import load
    from sdxl.run.command_line import forget_secrets

    try:
        forget_secrets(out_dir)
        config = load(cfg, HydraConfig.get().overrides.task)
        return action(config, out_dir, say)
    except Exception as error:
        if ends.came():
            raise KeyboardInterrupt from error
        return shown(error)  # the multirun must go on


def command(main: Callable[[], None]) -> None:
    """Run a Hydra entry point, print the JSON line, leave with the right exit code."""
    with streams.guarded():
        code = _command(main)
    if code is not None:
        sys.exit(code)


def _command(main: Callable[[], None]) -> int | None:
    """The exit code; None where only information was asked for."""
    ends.begun()
    try:
        sys.argv[1:] = secrets.withhold(sys.argv[1:])
        guard.refuse_pickles(sys.argv[1:])
        sys.argv[1:] = shorthand.quoted(sys.argv[1:])
    except SdxlError as error:
        return _ended(shown(error).line())
    with current.begun(sys.argv) as this:
        # Hydra would print its own message and exit 1; we want the exception.
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")
        try:
            if this.asks_help:
                from sdxl.config import help as helping

                text = helping.text(this.name, sys.argv[1:])
                print(text)
                kept_help.keep(this.name, sys.argv[1:], text)
                return None
            if this.asks_hydra:
                this.understand()
                main()
                return None
            this.run(main)
        except SystemExit as stop:
            if this.asks_hydra and not stop.code:
                raise
            this.failure = Outcome.failed("Hydra could not start", USER) if stop.code else None
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt) or ends.came():
                ends.again()
                this.interrupted = True
                this.failure = None if this.outcomes or this.sweep else _interrupted()
                terminal.say("interrupted")
            else:
                this.failure = _explained(error)
        try:
            return _ended(_line(this))
        except KeyboardInterrupt:  # while the sweep's tables and plots were made
            terminal.say("interrupted")
            stopped = {"status": "failed", "exit_code": FAILED, "reason": "interrupted"}
            return _ended(summary(this.ended()) | stopped)


def _ended(line: dict[str, Any]) -> int:
    ends.over()
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
        print_line(line)
    return int(line["exit_code"])


def _line(this: Command) -> dict[str, Any]:
    """The JSON line: a single job's outcome, or the sum of a multirun, whose tables are shown."""
    outcomes = this.ended()
    if this.sweep:
        _put_away(this, outcomes)
    if len(outcomes) == 1 and (this.failure or not this.sweep):
        return outcomes[0].line()
    line = summary(outcomes) | (this.sweep.summary() if this.sweep else {})
    failed = {"status": "failed", "exit_code": FAILED}
    try:
        _show_tables(this, outcomes)
    except Exception as error:  # the cells are measured all the same
        line |= {**failed, "reason": _explained(error).reason}
    if this.interrupted:  # perhaps between two cells: what is missing is nobody's outcome
        line |= {**failed, "reason": "interrupted"}
    return line


def _put_away(this: Command, outcomes: list[Outcome]) -> None:
    """Close the sweep; what goes wrong then changes nothing of what was measured."""
    assert this.sweep
    try:
        this.sweep.end(outcomes, this.interrupted)
    except Exception as error:
        terminal.say(f"warning: the sweep's end: {_explained(error).reason}")


def _show_tables(this: Command, outcomes: list[Outcome]) -> None:
    """What a multirun ends with, before its JSON line."""
    from sdxl.report.terminal import ladder, latency
    from sdxl.report.terminal.table import show_cells

    if this.sweep and this.sweep.only_plan:
        return
    show_cells(outcomes)
    if this.sweep:
        latency.show(outcomes, this.sweep.folder)
        ladder.show(outcomes)


def _interrupted() -> Outcome:
    return Outcome.failed("interrupted", FAILED)


def _explained(error: Exception) -> Outcome:
    """The failure, shown in our words."""
    from sdxl.config.explain import explain

    return shown(explain(error))


ACTIONS = {
    "run": "sdxl.run.cell",
    "quantize": "sdxl.quant.command",
    "export": "sdxl.run.export",
    "train": "sdxl.training.command",
}
"""The module whose `run(config, folder)` does the work of a command."""


def start(name: str, words: list[str]) -> NoReturn:
    """A command by name, as its own file in a checkout starts it; never returns."""
    import hydra

    from sdxl.config.registry import register

    sys.argv = [f"{name}.py", *words]
    register()

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
    def main(cfg: DictConfig) -> None:
        job(importlib.import_module(ACTIONS[name]).run, cfg)

    command(main)
    sys.exit(OK)  # what only asked for information
