"""Products with tiles of each kind, interpreted: in parts, copied by TMA, framed convolutions."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton: pip install -e .[test]")

from sdxl.backends.torch.kernels import conv, gemm, reference, tiles
from tests.backends.torch.kernels.test_kernels import (
    FORMATS,
    PER_UNIT,
    _seed,
    assert_close,
    assert_codes,
    random_codes,
)

assert _seed  # a fixture of every test here, too

TILES = {
    "small": tiles.SMALL,
    "halves": tiles.Tile(16, 128, 32, 4, 2),  # the epilogue in two parts
    "TMA": tiles.Tile(16, 128, 32, 4, 2, TMA=True),
}


@FORMATS
@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@pytest.mark.parametrize(("rows", "depth", "columns"), [(33, 64, 144), (5, 48, 32), (16, 40, 32)])
def test_gemm_with_tiles_of_each_kind(rows, depth, columns, tile, dtype):
    left, right = random_codes(rows, depth, dtype=dtype), random_codes(columns, depth, dtype=dtype)
    scale, bias = torch.rand(columns) * 1e-3, torch.randn(columns).bfloat16()
    residual = torch.randn(rows, columns).bfloat16()
    arguments = (left, right, scale, bias, residual, torch.bfloat16)
    assert_close(gemm.gemm(*arguments, tile), reference.gemm(*arguments))
    given = [gemm.paired(each) for each in (right, scale, bias)]
    found = gemm.gemm_geglu(left, *given, None, PER_UNIT, torch.bfloat16, tile)
    expected = reference.gemm_geglu(left, right, scale, bias, None, PER_UNIT, torch.bfloat16)
    assert_codes(found, expected, ties=0.02)


@FORMATS
@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@pytest.mark.parametrize(
    ("size", "inner", "outer"), [((5, 4), 64, 18), ((3, 6), 48, 144), ((1, 1), 36, 5)]
)
def test_framed_conv(size, inner, outer, tile, dtype):
    image = random_codes(2, inner, *size, dtype=dtype).permute(0, 2, 3, 1)
    weight = random_codes(outer, 3, 3, inner, dtype=dtype)
    scale, bias = torch.rand(outer) * 1e-3, torch.randn(outer).bfloat16()
    for residual in (None, torch.randn(2, *size, outer).bfloat16()):
        rest = (weight, scale, bias, residual)
        expected = reference.conv(image, *rest, 1, 1, torch.bfloat16)
        found = conv.framed_conv(reference.framed(image), *rest, torch.bfloat16, tile)
        assert_close(found, expected)
