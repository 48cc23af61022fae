"""A sweep as one MLflow run: made before its cells, closed with their table and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.config import schema
from sdxl.core.command import Outcome
from sdxl.core.errors import INVALID, OK, SdxlError, UserError
from sdxl.report import cells, plots, text
from sdxl.report.limits import Limits
from sdxl.report.mlflow import content
from sdxl.report.mlflow.client import asked, warn


@dataclass
class Parent:
    """The run of a sweep, open until its `end`."""

    tracking: schema.Tracking
    run_id: str
    folder: Path
    ended: bool = False

    def end(self, outcomes: Sequence[Outcome], interrupted: bool) -> None:
        """Close the run with the cells' table and pictures; the second time changes nothing."""
        if self.ended:
            return
        self.ended = True
        bad = any(outcome.exit_code not in (OK, INVALID) for outcome in outcomes)
        status = "KILLED" if interrupted else "FAILED" if bad else "FINISHED"
        summary, pictures = _report(self.folder)
        try:
            asked(
                "end_sweep",
                self.tracking,
                run_id=self.run_id,
                lines=[outcome.line() for outcome in outcomes],
                summary=summary,
                pictures=pictures,
                status=status,
            )
        except SdxlError as error:
            warn("MLflow did not take the sweep's table", error)


def begin(name: str, tracking: schema.Tracking, folder: Path) -> Parent | None:
    """The parent run of a sweep, made now; None, with a warning, if MLflow cannot."""
    try:
        run_id = asked("begin_sweep", tracking, name=name, folder=str(folder))
    except SdxlError as error:  # a dead server must not cost a sweep
        warn("MLflow did not take the sweep", error)
        return None
    return Parent(tracking, run_id, folder)


def _report(folder: Path) -> tuple[str, list[str]]:
    """The report's summary, and its pictures: speed, and speed against quality."""
    try:
        found = cells.load([folder])
    except UserError:  # no record in it: every cell was refused
        return "", []
    return text.markdown(found, Limits()), [str(path) for path in plots.draw(found, folder)]


def _begin(client: Any, experiment: str, name: str, folder: str) -> str:
    tags = {"sweep": "true", "folder": folder, **content.origin("run.py")}
    return str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)


def _end(
    client: Any,
    _: str,
    run_id: str,
    lines: list[dict[str, Any]],
    summary: str,
    pictures: list[str],
    status: str,
) -> None:
    """The table of the cells, how many ended how, the report's summary and pictures."""
    columns = ("command", "status", "images_per_second", "speed_up", "speed_means_nothing",
               "psnr_db", "reason", "record")  # fmt: skip
    table = {column: [line.get(column) for line in lines] for column in columns}
    client.log_table(run_id, table, "cells.json")
    for ended in sorted({line["status"] for line in lines}):
        count = sum(line["status"] == ended for line in lines)
        client.log_metric(run_id, f"cells_{ended}", count)
    client.log_metric(run_id, "cells", len(lines))
    if summary:
        client.log_text(run_id, summary, "summary.md")
    for path in pictures:
        client.log_artifact(run_id, path, "plots")
    client.set_terminated(run_id, status)


JOBS = {"begin_sweep": _begin, "end_sweep": _end}
