"""The package itself, without its telemetry."""

from __future__ import annotations

import sys
from typing import Any

TELEMETRY = "openvino_telemetry"


def load() -> Any:
    """OpenVINO; its import would otherwise tell Google Analytics, and so would its converters."""
    modules: dict[str, Any] = sys.modules
    modules.setdefault(TELEMETRY, None)  # "not installed": it then takes its own stub
    import openvino

    return openvino


def operators() -> Any:
    """What a graph is written in without a file."""
    load()
    from openvino import opset13

    return opset13
