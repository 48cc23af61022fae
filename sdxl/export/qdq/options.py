"""How Q and DQ are laid out; every layout holds the same integers and scales.

TensorRT and ONNX Runtime turn different patterns into 8-bit kernels. What each of them takes was
tried (docs/qdq.md has the figures).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from sdxl.choices import Convolutions
from sdxl.schema import Config


class Weights(str, Enum):
    """On which side of a matrix's transpose its DequantizeLinear stands.

    TensorRT allows an 8-bit constant only right before it; ONNX Runtime fuses only a
    DequantizeLinear right before the MatMul, and folds the transpose of 8-bit constants.
    """

    dequantize_first = "dequantize_first"
    transpose_first = "transpose_first"


@dataclass(frozen=True)
class Options:
    """The layout for one runtime."""

    weights: Weights = Weights.dequantize_first
    convolutions: Convolutions = Convolutions.conv

    def plain(self) -> dict[str, Any]:
        """For content keys and manifests."""
        return {"weights": self.weights.value, "convolutions": self.convolutions.value}


TENSORRT = Options()
ONNX_RUNTIME = Options(Weights.transpose_first, Convolutions.product)


DEFAULTS = {"ort": ONNX_RUNTIME, "trt": TENSORRT}


def options_of(config: Config) -> Options:
    """What the configuration's backend runs best (docs/qdq.md), unless it says otherwise."""
    best, asked = DEFAULTS[config.backend.name], config.export.convolutions
    return best if asked is None else replace(best, convolutions=asked)
