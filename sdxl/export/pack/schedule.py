"""The denoise loop as numbers, so that a script of a few lines draws without torch or diffusers."""

from __future__ import annotations

from typing import Any

from sdxl.config.schema import Config
from sdxl.model import guidance, schedulers
from sdxl.model.components import Source
from sdxl.model.step_table import table_of


def plain(config: Config, source: Source) -> dict[str, Any] | str:
    """The scheduler's rows and what guidance asks for, JSON-ready; or why there are none.

    rows: timestep, scale of the next input, then the coefficients of `step_table`.
    """
    schedule = schedulers.schedule_of(config.scheduler, config.model.steps, source)
    table = table_of(schedule)
    if isinstance(table, str):
        return table
    width = guidance.width(source)
    embedded = guidance.embedding(config.model.guidance, width).tolist() if width else None
    return {
        "start": table.start,
        "first": float(table.scale[0]),
        "rows": table.rows().tolist(),
        "noisy": schedule.noisy,
        "guided": guidance.rows_per_image(config.model, source) == 2,
        "zeros": guidance.zero_negative(config.model, source),
        "timestep_cond": embedded,
    }
