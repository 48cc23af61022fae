"""Codes are ModelOpt's simulated numbers, to the bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from modelopt.torch.quantization.tensor_quant import fake_tensor_quant, scaled_e4m3

from sdxl.model import codes

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
floats = st.lists(
    st.floats(-1e3, 1e3, width=32, allow_nan=False), min_size=1, max_size=64
).map(torch.tensor)  # fmt: skip


def modelopt(values, amax, bits=8):
    return fake_tensor_quant(values, amax, None, bits, False, False)  # -128 is a code too


@pytest.mark.parametrize("dtype", DTYPES)
@given(values=floats, share=st.floats(0.1, 2))
def test_int8_and_fp8_are_modelopts(dtype, values, share):
    values = values.to(dtype)
    amax = (values.abs().max() * share).to(dtype)
    assert torch.equal(codes.rounded(values, amax, fp8=False), modelopt(values, amax))
    stored = codes.from_integer(codes.integer_codes(values, amax), amax).to(dtype)
    assert torch.equal(stored, modelopt(values, amax))
    wanted = scaled_e4m3(values, amax, None, 4, 3)
    assert torch.equal(codes.rounded(values, amax, fp8=True), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_per_channel_weights_with_a_dead_channel(dtype):
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight[2] = 0
    amax = weight.abs().amax(1, keepdim=True)
    stored = codes.from_integer(codes.integer_codes(weight, amax), amax).to(dtype)
    assert torch.equal(stored, modelopt(weight, amax))
    assert stored[2].eq(0).all()


@given(rows=st.integers(1, 4), blocks=st.integers(1, 3), seed=st.integers(0, 99))
def test_int4_packs_and_unpacks(rows, blocks, seed):
    generator = torch.Generator().manual_seed(seed)
    stored = torch.randint(-8, 8, (rows, blocks, 16), generator=generator, dtype=torch.int8)
    packed = codes.pack_nibbles(stored)
    assert packed.numel() * 2 == stored.numel()
    assert torch.equal(codes.unpack_nibbles(packed), stored)


@given(width=st.integers(1, 40), block=st.sampled_from([2, 8, 16]))
def test_blocks_pad_and_cut(width, block):
    weight = torch.arange(3.0 * width).reshape(3, width)
    cut = codes.to_blocks(weight, block)
    assert cut.shape[2] == block
    assert torch.equal(codes.from_blocks(cut, width), weight)


@given(values=floats)
def test_rounding_twice_is_rounding_once(values):
    amax = values.abs().max()
    for fp8 in (False, True):
        once = codes.rounded(values, amax, fp8)
        assert torch.equal(codes.rounded(once, amax, fp8), once)
