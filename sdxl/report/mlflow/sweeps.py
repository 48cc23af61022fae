"""A sweep as one MLflow run: made before its cells, closed with their table and pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.config import schema
from sdxl.core.command import Outcome
from sdxl.core.errors import INVALID, OK, UserError
from sdxl.report import cells, plots, text
from sdxl.report.limits import Limits
from sdxl.report.mlflow.client import opened, reason


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
        try:
            with opened(self.tracking) as (client, _):
                _log_cells(client, self.run_id, outcomes)
                _log_report(client, self.run_id, self.folder)
                bad = any(outcome.exit_code not in (OK, INVALID) for outcome in outcomes)
                status = "KILLED" if interrupted else "FAILED" if bad else "FINISHED"
                client.set_terminated(self.run_id, status)
        except Exception as error:
            said = reason(error, self.tracking)
            print(f"warning: MLflow did not take the sweep's table: {said}", file=sys.stderr)


def begin(name: str, tracking: schema.Tracking, folder: Path) -> Parent | None:
    """The parent run of a sweep, made now; None, with a warning, if MLflow cannot."""
    try:
        with opened(tracking) as (client, experiment):
            tags = {"sweep": "true", "folder": str(folder)}
            run = client.create_run(experiment, tags=tags, run_name=name)
    except Exception as error:  # a dead server must not cost a sweep
        print(f"warning: MLflow did not take the sweep: {reason(error, tracking)}", file=sys.stderr)
        return None
    return Parent(tracking, str(run.info.run_id), folder)


def _log_cells(client: Any, run_id: str, outcomes: Sequence[Outcome]) -> None:
    """The table of the cells, and how many ended how."""
    columns = ("command", "status", "images_per_second", "speed_up", "psnr_db", "reason", "record")
    lines = [outcome.line() for outcome in outcomes]
    table = {column: [line.get(column) for line in lines] for column in columns}
    client.log_table(run_id, table, "cells.json")
    for status in sorted({outcome.status for outcome in outcomes}):
        count = sum(outcome.status == status for outcome in outcomes)
        client.log_metric(run_id, f"cells_{status}", count)
    client.log_metric(run_id, "cells", len(outcomes))


def _log_report(client: Any, run_id: str, folder: Path) -> None:
    """The report's summary, and its pictures: speed, and speed against quality."""
    try:
        found = cells.load([folder])
    except UserError:  # no record in it: every cell was refused
        return
    client.log_text(run_id, text.markdown(found, Limits()), "summary.md")
    for path in plots.draw(found, folder):
        client.log_artifact(run_id, str(path), "plots")
