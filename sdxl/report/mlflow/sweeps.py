"""A sweep as one MLflow run: made before its cells, closed with their table and pictures."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.config import schema
from sdxl.core.errors import UserError
from sdxl.report import cells, plots, text
from sdxl.report.choose import Limits
from sdxl.report.mlflow.client import opened, reason


@dataclass
class _Parent:
    tracking: schema.Tracking
    run_id: str


_parent: _Parent | None = None


def begin(name: str, tracking: schema.Tracking, folder: Path) -> str | None:
    """The parent run of this command's sweep, made now; None, with a warning, if MLflow cannot."""
    global _parent
    try:
        with opened(tracking) as (client, experiment):
            tags = {"sweep": "true", "folder": str(folder)}
            run = client.create_run(experiment, tags=tags, run_name=name)
    except Exception as error:  # a dead server must not cost a sweep
        print(f"warning: MLflow did not take the sweep: {reason(error, tracking)}", file=sys.stderr)
        return None
    _parent = _Parent(tracking, str(run.info.run_id))
    return _parent.run_id


def end(outcomes: list[dict[str, Any]], folder: Path, interrupted: bool) -> None:
    """Close this command's parent run, if there is one, with the cells' table and pictures."""
    global _parent
    if not _parent:
        return
    try:
        with opened(_parent.tracking) as (client, _):
            _log_cells(client, _parent.run_id, outcomes)
            _log_report(client, _parent.run_id, folder)
            bad = any(outcome["exit_code"] not in (0, 3) for outcome in outcomes)
            status = "KILLED" if interrupted else "FAILED" if bad else "FINISHED"
            client.set_terminated(_parent.run_id, status)
    except Exception as error:
        said = reason(error, _parent.tracking)
        print(f"warning: MLflow did not take the sweep's table: {said}", file=sys.stderr)
    _parent = None


def _log_cells(client: Any, run_id: str, outcomes: list[dict[str, Any]]) -> None:
    """The table of the cells, and how many ended how."""
    columns = ("command", "status", "images_per_second", "speed_up", "psnr_db", "reason", "record")
    table = {column: [outcome.get(column) for outcome in outcomes] for column in columns}
    client.log_table(run_id, table, "cells.json")
    for status in sorted({outcome["status"] for outcome in outcomes}):
        count = sum(outcome["status"] == status for outcome in outcomes)
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
