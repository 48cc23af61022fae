"""The frame of every command: panels for mistakes, one JSON line at the end, the exit code."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig

from sdxl.config.load import load
from sdxl.config.schema import Config
from sdxl.core.command import Outcome, _failed, _summary
from sdxl.core.errors import FAILED, OK, USER, SdxlError, UserError, one_line, show
from sdxl.core.paths import CONF

_outcomes: list[Outcome] = []
_sweep: Any = None
"""The `Sweep` of this command, if it is a multirun of run.py."""
_INFORMATION = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-i", "--info",
                "-sc", "--shell-completion")  # fmt: skip


def job(action: Callable[[Config, Path], Outcome], cfg: DictConfig) -> None:
    """Run one job of a command; whatever happens becomes an outcome, so a multirun goes on."""
    from hydra.core.hydra_config import HydraConfig

    from sdxl.run import shared

    out_dir = Path(HydraConfig.get().runtime.output_dir)
    if _sweep:
        with _sweep.cell(out_dir) as cell:
            if shared.stopped(out_dir.parent):
                cell.outcome = _sweep.not_started()
                return
            cell.outcome = _failed("interrupted", FAILED)
            cell.outcome = _outcome(action, cfg, out_dir)
    elif not shared.stopped(out_dir.parent):  # a launcher's process: the record says it all
        if shared.of_cell(out_dir):
            from sdxl.core import progress

            progress.listener = lambda _: None  # the sweep's own process shows the table
        _outcomes.append(_outcome(action, cfg, out_dir))


def _outcome(action: Callable[[Config, Path], Outcome], cfg: DictConfig, out_dir: Path) -> Outcome:
    """The action's outcome, or the failure as one; Ctrl-C is noted and goes on up."""
    try:
        from sdxl.run.command_line import forget_credentials

        config = load(cfg)
        forget_credentials(config, out_dir)
        return action(config, out_dir)
    except SdxlError as error:
        show(error)
        return _failed(one_line(error.problems), error.exit_code)
    except KeyboardInterrupt as stop:
        if not _sweep:
            _outcomes.append(getattr(stop, "outcome", None) or _failed("interrupted", FAILED))
        raise
    except Exception as error:  # the multirun must go on; the traceback is shown here
        traceback.print_exc()
        return _failed(f"{type(error).__name__}: {error}", FAILED)


def current_sweep() -> Any:
    """The `Sweep` that this command looked ahead to."""
    if _sweep is None:
        raise UserError("a sweep is asked for with -m", "hydra.mode=MULTIRUN", fix="run.py -m ...")
    return _sweep


def command(main: Callable[[], None]) -> None:
    """Run a Hydra entry point, print the JSON line, leave with the right exit code."""
    asks_help = any(word in ("-h", "--help") for word in sys.argv[1:])
    if not asks_help and any(word.split("=")[0] in _INFORMATION for word in sys.argv[1:]):
        main()
        return
    # Hydra would print its own message and exit 1; we want the exception.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    failure: Outcome | None = None
    stopped = False
    try:
        if asks_help:
            from sdxl.config import help as helping

            print(helping.text(Path(sys.argv[0]).stem, sys.argv[1:]))
            return
        if not _only_planned():
            with _sweep.running() if _sweep else contextlib.nullcontext():
                main()
    except KeyboardInterrupt:
        stopped = True
        failure = None if _outcomes or _sweep else _failed("interrupted", FAILED)
        print("interrupted", file=sys.stderr)
    except SystemExit as stop:
        failure = _failed("Hydra could not start", USER) if stop.code else None
    except Exception as error:
        failure = _explained(error)
    outcomes = [*_outcomes, *(_sweep.outcomes() if _sweep else []), *([failure] if failure else [])]
    if _sweep and (sweeps := sys.modules.get("sdxl.report.mlflow.sweeps")):
        sweeps.end(outcomes, _sweep.folder, interrupted=stopped)
    if len(outcomes) == 1 and not _sweep:
        summary = outcomes[0]
    else:
        summary = _summary(outcomes) | (_sweep.summary() if _sweep else {})
        try:
            _show_tables(outcomes)
        except Exception as error:  # the cells are measured all the same
            lost = _explained(error)
            summary |= {"status": "failed", "reason": lost["reason"], "exit_code": FAILED}
        if stopped:  # perhaps between two cells: what is missing is nobody's outcome
            summary |= {"status": "failed", "reason": "interrupted", "exit_code": FAILED}
    sys.stderr.flush()
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
        print(json.dumps(summary, allow_nan=False, default=str), flush=True)
    sys.exit(summary["exit_code"])


def _show_tables(outcomes: list[Outcome]) -> None:
    """What a multirun ends with, before its JSON line."""
    from sdxl.report.terminal import ladder, latency
    from sdxl.report.terminal.table import show_cells

    if _sweep and _sweep.only_plan:
        return
    show_cells(outcomes)
    if _sweep:
        latency.show(outcomes, _sweep.folder)
        ladder.show(outcomes)


def _explained(error: Exception) -> Outcome:
    """The failure, shown."""
    from sdxl.config.explain import explain

    mended = explain(error)
    show(mended)
    return _failed(one_line(mended.problems), mended.exit_code)


def _only_planned() -> bool:
    """Look ahead if this is a multirun of run.py; True if the plan is all that was asked for."""
    global _sweep
    multirun = any(word in ("-m", "--multirun") for word in sys.argv[1:])
    if not multirun or Path(sys.argv[0]).stem != "run":
        return False
    from sdxl.run.sweep.run import Sweep

    _sweep = Sweep("run", [word for word in sys.argv[1:] if not word.startswith("-")])
    _sweep.announce()
    # Every process has to mean the same folder, whatever the time is there.
    quoted = str(_sweep.folder).replace("\\", "\\\\").replace("'", "\\'")
    sys.argv.append(f"hydra.sweep.dir='{quoted}'")
    return bool(_sweep.only_plan)


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

    from sdxl.config.load import register

    sys.argv = [f"{name}.py", *words]
    register()

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
    def main(cfg: DictConfig) -> None:
        job(importlib.import_module(ACTIONS[name]).run, cfg)

    command(main)
    sys.exit(OK)  # what only asked for information
