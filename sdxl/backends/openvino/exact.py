"""Whether OpenVINO adds products of 8-bit codes exactly on this processor."""

from __future__ import annotations

import functools

import numpy as np

from sdxl.backends.openvino import library

_ROWS, _LENGTH = 4, 64
"""Of a product whose codes are all the largest: each sum is the length."""
OVERFLOW = (
    "OpenVINO adds 8-bit products in 16 bits on this processor, which has no VNNI: sums of large "
    "codes overflow, and quality is lower than it is elsewhere; with backend=ort quant=int8 they "
    "are exact"
)


@functools.cache
def overflows() -> bool:
    """Whether the CPU's kernels get a product of extreme codes wrong; compiles a tiny model."""
    openvino, ops = library.load(), library.operators()
    given = ops.parameter([_ROWS, _LENGTH], np.float32)
    low, high = np.float32(-128 / 127), np.float32(1)
    rounded = ops.fake_quantize(given, low, high, low, high, 256)
    codes = ops.constant(np.full((_ROWS, _LENGTH), 127, np.int8))
    weight = ops.multiply(ops.convert(codes, "f32"), np.float32(1 / 127))
    product = ops.matmul(rounded, weight, transpose_a=False, transpose_b=True)
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = openvino.Core().compile_model(openvino.Model([product], [given]), "CPU", exact)
    found = model([np.ones((_ROWS, _LENGTH), np.float32)])[0]
    return not np.allclose(found, _LENGTH, rtol=1e-3)
