"""A sweep as one MLflow run: made before its cells, closed with their table and pictures."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl import schema
from sdxl.tracking import opened, reason


@dataclass
class _Parent:
    tracking: schema.Tracking
    run_id: str


_parent: _Parent | None = None


def begin(name: str, tracking: schema.Tracking) -> str | None:
    """The parent run of this command's sweep, made now; None, with a warning, if MLflow cannot."""
    global _parent
    try:
        with opened(tracking) as (client, experiment):
            run = client.create_run(experiment, tags={"sweep": "true"}, run_name=name)
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
    from sdxl.tracking import content

    try:
        with opened(_parent.tracking) as (client, _):
            content.log_cells(client, _parent.run_id, outcomes)
            bad = any(outcome["exit_code"] not in (0, 3) for outcome in outcomes)
            status = "KILLED" if interrupted else "FAILED" if bad else "FINISHED"
            client.set_terminated(_parent.run_id, status)
    except Exception as error:
        said = reason(error, _parent.tracking)
        print(f"warning: MLflow did not take the sweep's table: {said}", file=sys.stderr)
    _parent = None
