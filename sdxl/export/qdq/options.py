"""How Q and DQ are laid out; every layout holds the same integers and scales.

TensorRT and ONNX Runtime turn different patterns into 8-bit kernels. What each of them takes was
tried (docs/qdq.md has the figures).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Weights(str, Enum):
    """On which side of a matrix's transpose its DequantizeLinear stands.

    TensorRT allows an 8-bit constant only right before it; ONNX Runtime fuses only a
    DequantizeLinear right before the MatMul, and folds the transpose of 8-bit constants.
    """

    dequantize_first = "dequantize_first"
    transpose_first = "transpose_first"


class Convolutions(str, Enum):
    """What becomes of a quantized convolution.

    `conv` is the standard form. ONNX Runtime has no 8-bit convolution with float output: it
    runs that form in floats. `matmul` says the same as a product of patches, which runs on
    integers. `float` leaves the layers unquantized: another network, nearer to the original.
    """

    conv = "conv"
    matmul = "matmul"
    float = "float"


@dataclass(frozen=True)
class Options:
    """The layout for one runtime."""

    weights: Weights = Weights.dequantize_first
    convolutions: Convolutions = Convolutions.conv

    def plain(self) -> dict[str, Any]:
        """For content keys and manifests."""
        return {"weights": self.weights.value, "convolutions": self.convolutions.value}


TENSORRT = Options()
ONNX_RUNTIME = Options(Weights.transpose_first, Convolutions.matmul)


def options_of(backend: str) -> Options:
    """The measured default of a backend."""
    return {"ort": ONNX_RUNTIME, "trt": TENSORRT}[backend]
