"""How Q and DQ are laid out; every layout holds the same integers and scales.

TensorRT, OpenVINO and ONNX Runtime turn different patterns into 8-bit kernels. What each of them
takes was tried: docs/qdq.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from sdxl.config.choices import Convolutions
from sdxl.config.schema import Config


class Layout(str, Enum):
    """Where a matrix is transposed, and how codes of inputs are written.

    TensorRT allows an 8-bit constant only right before its DequantizeLinear, and int8 alone.
    ONNX Runtime wants the DequantizeLinear right before the MatMul, folds a transpose of codes,
    and on x64 takes uint8 inputs: zero is 128, the integers are the same, shifted.
    """

    standard = "standard"
    integer = "integer"


@dataclass(frozen=True)
class Options:
    """The form of the graph for one runtime."""

    layout: Layout = Layout.standard
    convolutions: Convolutions = Convolutions.conv

    def plain(self) -> dict[str, Any]:
        """For content keys and manifests."""
        return {"layout": self.layout.value, "convolutions": self.convolutions.value}


TENSORRT = Options()
ONNX_RUNTIME = Options(Layout.integer, Convolutions.product)
OPENVINO = Options()
DEFAULTS = {"openvino": OPENVINO, "ort": ONNX_RUNTIME, "trt": TENSORRT}


def options_of(config: Config) -> Options:
    """What the configuration's backend runs best (docs/qdq.md), unless it says otherwise.

    A backend that we do not know gets the layout of the ONNX standard, TensorRT's.
    """
    best = DEFAULTS.get(config.backend.name, TENSORRT)
    asked = config.export.convolutions
    return best if asked is None else replace(best, convolutions=asked)
