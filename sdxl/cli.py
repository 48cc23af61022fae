"""The frame of every command: panels for mistakes, one JSON line at the end, the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from sdxl.config.load import load
from sdxl.config.schema import GROUPS, Config
from sdxl.core.command import Outcome, print_line, shown, summary
from sdxl.core.errors import FAILED, USER
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
        except KeyboardInterrupt as stop:
            this.outcomes.append(getattr(stop, "outcome", None) or _interrupted())
            raise


def _outcome(action: Action, cfg: DictConfig, out_dir: Path, say: Say | None) -> Outcome:
    """The action's outcome, or the failure as one; Ctrl-C goes on up."""
    from sdxl.run.command_line import forget_credentials

    try:
        config = load(cfg)
        forget_credentials(config.tracking, out_dir)
        return action(config, out_dir, say)
    except Exception as error:  # the multirun must go on
        return shown(error)


def command(main: Callable[[], None]) -> None:
    """Run a Hydra entry point, print the JSON line, leave with the right exit code."""
    with current.begun(sys.argv) as this:
        if this.asks_hydra:
            main()
            return
        # Hydra would print its own message and exit 1; we want the exception.
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")
        try:
            if this.asks_help:
                print(_help(this.name))
                return
            this.run(main)
        except KeyboardInterrupt:
            this.interrupted = True
            this.failure = None if this.outcomes or this.sweep else _interrupted()
            print("interrupted", file=sys.stderr)
        except SystemExit as stop:
            this.failure = Outcome.failed("Hydra could not start", USER) if stop.code else None
        except Exception as error:
            this.failure = _explained(error)
        line = _line(this)
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
        print_line(line)
    sys.exit(line["exit_code"])


def _line(this: Command) -> dict[str, Any]:
    """The JSON line: a single job's outcome, or the sum of a multirun, whose tables are shown."""
    outcomes = this.ended()
    if this.sweep:
        this.sweep.end(outcomes, this.interrupted)
    elif len(outcomes) == 1:
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


def _help(name: str) -> str:
    """What `--help` prints; of values to sweep over, the first is shown.

    Hydra's own takes seconds: it composes every option of every group.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from sdxl.config.explain import expand

    conf = CONF
    with initialize_config_dir(str(conf), version_base="1.3"):
        words = [next(expand(word)) for word in sys.argv[1:] if not word.startswith("-")]
        settings = OmegaConf.to_yaml(compose(name, overrides=words)).rstrip()
    text: Any = OmegaConf.load(conf / "hydra" / "help" / f"{name}.yaml")
    groups = [
        f"  {'+' if group in ('experiment', 'sweep') else ''}{group}: "
        + ", ".join(sorted(file.stem for file in (conf / group).glob("*.yaml")))
        for group in (
            *GROUPS,
            "backend",
            *(["train"] if name == "train" else ["experiment", "sweep"]),
        )
    ]
    parts = [text.header, "Groups (group=option):", *groups, "", "Settings (name=value):"]
    return "\n".join([*parts, settings, "", text.footer.rstrip()])
