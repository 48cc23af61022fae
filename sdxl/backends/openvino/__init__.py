"""OpenVINO: the exported graphs as its IR, on processors, Intel's GPUs and NPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdxl.backends.openvino import ir
from sdxl.backends.openvino.config import Config
from sdxl.backends.openvino.rules import missing, not_installed, problems_of
from sdxl.config import schema
from sdxl.config.plugins import Backend, Form

if TYPE_CHECKING:
    from sdxl.backends.openvino.stages import OpenVinoStages


def _open(config: schema.Config, artifacts: dict[str, Path]) -> OpenVinoStages:
    """Compile the graphs, ready to run; `artifacts`: a folder for each."""
    from sdxl.backends.openvino.stages import OpenVinoStages

    return OpenVinoStages(config, artifacts)


BACKEND = Backend(
    Config,
    _open,
    "graphs",
    parts=("deep", "cross"),
    problems_of=problems_of,
    missing=missing,
    form=Form(ir.KIND, ir.key, ir.get, not_installed),
)
