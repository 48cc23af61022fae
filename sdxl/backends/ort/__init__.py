"""ONNX Runtime: the exported graphs on CPU, or on CUDA and TensorRT through its providers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdxl.backends.ort.config import Config
from sdxl.backends.ort.rules import missing, problems_of
from sdxl.config import schema
from sdxl.config.plugins import Backend

if TYPE_CHECKING:
    from sdxl.backends.ort.stages import OrtStages


def _open(config: schema.Config, artifacts: dict[str, Path]) -> OrtStages:
    """Load the graphs, ready to run; `artifacts`: a folder for each graph."""
    from sdxl.backends.ort.stages import OrtStages

    return OrtStages(config, artifacts)


BACKEND = Backend(
    Config, _open, "graphs", parts=("deep", "cross"), problems_of=problems_of, missing=missing
)
