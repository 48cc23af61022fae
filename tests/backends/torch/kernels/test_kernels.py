"""Every Triton kernel against its plain formula, interpreted: odd sizes, strides, types."""

import os

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton: pip install -e .[test]")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton's interpreter is switched off", allow_module_level=True)

import triton
import triton.language as tl

from sdxl.backends.torch.kernels import (
    attention,
    conv,
    euler,
    gemm,
    group_norm,
    quantize,
    reference,
    rounding,
    tiles,
)

INT8, E4M3 = torch.int8, torch.float8_e4m3fn
FORMATS = pytest.mark.parametrize("dtype", [INT8, E4M3], ids=["int8", "e4m3"])
FLOATS = pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
PER_UNIT = torch.tensor(40.0)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random_codes(*shape, dtype):
    if dtype is INT8:
        return torch.randint(-128, 128, shape, dtype=INT8)
    return (torch.randn(shape) * 30).to(E4M3)


def assert_codes(found, expected, ties=0.0):
    """Equal, or one step apart in at most `ties` of the places."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if found.dtype is INT8:
        steps = (found.int() - expected.int()).abs()
    else:  # neighbours in E4M3 are neighbours as bytes, except around zero
        ordered = [c.view(torch.int8).int() for c in (found, expected)]
        ordered = [torch.where(c < 0, -(c & 127), c) for c in ordered]
        steps = (ordered[0] - ordered[1]).abs()
    assert steps.max() <= (1 if ties else 0), int(steps.max())
    assert (steps > 0).float().mean() <= ties


def assert_close(found, expected, times=1):
    """Within an fp32 accumulation and `times` one rounding to the output's dtype."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    bound = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[found.dtype]
    error = (found.float() - expected.float()).abs().max() / expected.float().abs().max()
    assert error <= times * bound, float(error)


@FORMATS
@FLOATS
@pytest.mark.parametrize("shape", [(1, 1), (3, 37), (2, 1100)])
def test_quantize(shape, kind, dtype):
    values = (torch.randn(shape) * 3).to(kind)
    factors = (torch.rand(shape[1]) + 0.5).to(kind)
    for smooth in (None, factors):
        expected = reference.quantize(values, smooth, PER_UNIT, dtype)
        assert_codes(quantize.quantize(values, smooth, PER_UNIT, dtype), expected)
        wider = torch.cat([values, values], dim=1)[:, : shape[1]]
        assert_codes(quantize.quantize(wider, smooth, PER_UNIT, dtype), expected)
        turned = values.t().contiguous().t()
        assert_codes(quantize.quantize(turned, smooth, PER_UNIT, dtype), expected)


def test_ties_go_to_even():
    values = torch.tensor([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, 127.5, 1e9, -1e9]])
    found = quantize.quantize(values, None, torch.tensor(1.0), INT8)
    assert found.tolist() == [[-2, -2, 0, 0, 2, 2, 126, 127, 127, -128]]


@FORMATS
@FLOATS
def test_geglu_quantize(kind, dtype):
    hidden = torch.randn(5, 2 * 70).to(kind)
    for smooth in (None, (torch.rand(70) + 0.5).to(kind)):
        expected = reference.geglu_quantize(hidden, smooth, PER_UNIT, dtype)
        found = quantize.geglu_quantize(hidden, smooth, PER_UNIT, dtype)
        assert_codes(found, expected, ties=0.02)  # two implementations of erf


@FORMATS
@FLOATS
@pytest.mark.parametrize("parts", [1, 3])
def test_layer_norm_quantize(parts, kind, dtype):
    values = (torch.randn(4, 2 * 45) * 2 + 1).to(kind)[:, ::2]
    weight, bias = torch.randn(45).to(kind), torch.randn(45).to(kind)
    per_unit = torch.rand(parts) * 30 + 20
    for smooth in (None, (torch.rand(parts, 45) + 0.5).to(kind)):
        arguments = (values, weight, bias, 1e-5, smooth, per_unit, dtype)
        found = quantize.layer_norm_quantize(*arguments)
        assert_codes(found, reference.layer_norm_quantize(*arguments), ties=0.02)


GROUP_NORM = {
    "silu": {},
    "added": {"added": True},
    "no silu": {"activate": False},
    "frame": {"frame": True, "added": True},
}
"""Options of a GroupNorm's kernel; `added` stands for a tensor."""


@FORMATS
@FLOATS
@pytest.mark.parametrize("options", GROUP_NORM.values(), ids=GROUP_NORM)
@pytest.mark.parametrize(("size", "channels", "groups"), [(5, 10, 2), (1, 6, 3)])
def test_group_norm_quantize(size, channels, groups, options, kind, dtype):
    image = (torch.randn(2, channels, size, size + 1) * 2 + 3).to(kind).permute(0, 2, 3, 1)
    weight, bias = torch.randn(channels).to(kind), torch.randn(channels).to(kind)
    if options.get("added"):
        options = options | {"added": torch.randn(2, channels).to(kind)}
    arguments = (image, groups, weight, bias, 1e-5, PER_UNIT, dtype)
    found = group_norm.group_norm_quantize(*arguments, **options)
    expected = reference.group_norm_quantize(*arguments, **options)
    assert_codes(found, expected, ties=0.02)
    for own in (1, channels - 2):  # groups lie across the border of image and skip
        arguments = (image[..., :own], *arguments[1:7], image[..., own:])
        beside = group_norm.group_norm_quantize(*arguments, **options)
        assert torch.equal(beside.view(INT8), found.view(INT8))
        assert torch.equal(reference.group_norm_quantize(*arguments, **options).view(INT8),
                           expected.view(INT8))  # fmt: skip


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_group_norm_of_many_chunks_loses_nothing_to_a_large_mean(mean):
    image = torch.randn(1, 24, 30, 68) + mean  # three chunks, the last of them not whole
    image[..., 34:] += 5
    weight, bias = torch.randn(68), torch.randn(68)
    found = group_norm._table(image, image, 2, weight, bias, 1e-5, None, 68).double()
    groups = image.double().view(720, 2, 34)
    factor = weight.double().view(2, 34) / (groups.var((0, 2), correction=0) + 1e-5).sqrt()[:, None]
    offset = bias.double().view(2, 34) - groups.mean((0, 2))[:, None] * factor
    torch.testing.assert_close(found[0, 0], factor.flatten(), rtol=2e-6, atol=0)
    torch.testing.assert_close(found[0, 1], offset.flatten(), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("first", [0.0, 1e4], ids=["alike", "the first value far off"])
@pytest.mark.parametrize("columns", [300, 512])
def test_layer_norm_loses_nothing_to_a_large_mean(columns, first):
    values = torch.randn(3, columns) * 2 + 3e3
    values[:, 0] += first
    ones, unit = torch.ones(columns), torch.tensor([200.0])
    arguments = (values, ones, 0 * ones, 1e-5, None, unit, INT8)
    expected = reference.layer_norm_quantize(values.double(), *arguments[1:])
    assert_codes(quantize.layer_norm_quantize(*arguments), expected, ties=0.03)


@triton.jit
def _activation(values, out, which: tl.constexpr, block: tl.constexpr):
    x = tl.load(values + tl.arange(0, block))
    found = rounding.gelu(x) if which == "gelu" else rounding.silu(x)
    tl.store(out + tl.arange(0, block), found)


def test_activations_in_fp32():
    """The formulas that kernels use, within fp32 of PyTorch's."""
    values = torch.linspace(-12, 12, 4096)
    for name in ("gelu", "silu"):
        found, exact = torch.empty(4096), getattr(torch.nn.functional, name)(values.double())
        _activation[(1,)](values, found, name, 4096)
        assert ((found - exact).abs() <= 1e-6 * exact.abs() + 3e-7).all(), name


@FORMATS
@FLOATS
@pytest.mark.parametrize("shape", [(1, 5, 3), (17, 40, 33)])
def test_gemm(shape, kind, dtype):
    rows, depth, columns = shape
    left, right = random_codes(rows, depth, dtype=dtype), random_codes(columns, depth, dtype=dtype)
    scale = torch.rand(columns) * 1e-3
    bias, residual = torch.randn(columns).to(kind), torch.randn(rows, columns).to(kind)
    for extras in ((None, None), (bias, None), (bias, residual)):
        expected = reference.gemm(left, right, scale, *extras, kind)
        assert_close(gemm.gemm(left, right, scale, *extras, kind, tiles.SMALL), expected)
    strided = torch.cat([left, left], dim=1)[:, :depth]
    assert_close(gemm.gemm(strided, right, scale, bias, residual, kind, tiles.SMALL), expected)


def test_the_largest_codes_do_not_overflow():
    left = torch.full((16, 5120), -128, dtype=INT8)
    right = torch.full((16, 5120), -128, dtype=INT8)
    found = gemm.gemm(left, right, torch.ones(16), None, None, torch.float32, tiles.SMALL)
    assert (found == 128.0 * 128 * 5120).all()


@FORMATS
@FLOATS
def test_gemm_geglu(kind, dtype):
    left, right = random_codes(19, 40, dtype=dtype), random_codes(2 * 21, 40, dtype=dtype)
    scale, bias = torch.rand(42) * 1e-4, torch.randn(42).to(kind)
    for smooth in (None, (torch.rand(21) + 0.5).to(kind)):
        given = [gemm.paired(each) for each in (right, scale, bias)]
        found = gemm.gemm_geglu(left, *given, smooth, PER_UNIT, kind, tiles.SMALL)
        expected = reference.gemm_geglu(left, right, scale, bias, smooth, PER_UNIT, kind)
        assert_codes(found, expected, ties=0.02)


@FORMATS
@FLOATS
@pytest.mark.parametrize(
    ("size", "inner", "outer", "kernel", "stride", "padding"),
    [((5, 4), 20, 18, 3, 1, 1), ((7, 6), 40, 5, 3, 2, 1), ((3, 5), 33, 17, 1, 1, 0)],
)
def test_conv(size, inner, outer, kernel, stride, padding, kind, dtype):
    image = random_codes(2, inner, *size, dtype=dtype).permute(0, 2, 3, 1)
    weight = random_codes(outer, kernel, kernel, inner, dtype=dtype)
    scale, bias = torch.rand(outer) * 1e-3, torch.randn(outer).to(kind)
    arguments = (image, weight, scale, bias, None, stride, padding, kind)
    expected = reference.conv(*arguments)
    assert_close(conv.conv(*arguments, tiles.SMALL), expected)
    residual = torch.randn(expected.shape).to(kind)
    arguments = (image, weight, scale, None, residual, stride, padding, kind)
    assert_close(conv.conv(*arguments, tiles.SMALL), reference.conv(*arguments))


@FLOATS
@pytest.mark.parametrize("guided", [True, False])
def test_euler_step(guided, kind):
    latents = torch.randn(3, 4, 5, 7)
    predicted = torch.randn(6 if guided else 3, 4, 5, 7).to(kind)
    sigmas = torch.tensor(9.5), torch.tensor(7.25)
    moved, scaled = reference.euler_step(latents, predicted, 8.0, *sigmas)
    given = torch.empty_like(predicted)
    euler.euler_step(latents, predicted, 8.0, *sigmas, given)
    assert_close(latents, moved)
    assert_close(given, scaled)


def test_the_euler_step_is_diffusers():
    from diffusers import EulerDiscreteScheduler

    from sdxl.model.architecture import SCHEDULER

    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    scheduler.set_timesteps(4)
    latents, predicted = torch.randn(1, 4, 8, 8), torch.randn(2, 4, 8, 8)
    negative, positive = predicted.chunk(2)
    scheduler.scale_model_input(latents, scheduler.timesteps[0])
    guided = negative + 8.0 * (positive - negative)
    expected = scheduler.step(guided, scheduler.timesteps[0], latents).prev_sample
    wanted = scheduler.scale_model_input(torch.cat([expected] * 2), scheduler.timesteps[1])
    moved, scaled = reference.euler_step(latents, predicted, 8.0, *scheduler.sigmas[:2])
    torch.testing.assert_close(moved, expected)
    torch.testing.assert_close(scaled, wanted)


def test_the_codes_are_the_checkpoints():
    """`reference.quantize` is what the simulated module computes."""
    from sdxl.model import codes

    values, amax = torch.randn(8, 40) * 2, torch.tensor(3.0)
    found = reference.quantize(values, None, codes.int8_per_unit(amax), INT8)
    assert torch.equal(found, codes.integer_codes(values, amax))
    found = reference.quantize(values, None, codes.fp8_per_unit(amax), E4M3)
    assert torch.equal(found.view(INT8), codes.fp8_codes(values, amax).view(INT8))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 5, 7, 2, 8), (1, 37, 77, 3, 20), (1, 33, 33, 1, 64), (1, 0, 3, 1, 16)], ids=str
)
def test_attention(shape, kind):
    batch, length, keys, heads, width = shape
    sizes = (length, keys, keys)
    given = [random_codes(batch, size, heads, width, dtype=E4M3) for size in sizes]
    settings = ((0.03, 0.02, 0.01), width**-0.5, 448.0, kind)
    found = attention.attention(*given, *settings, tiles.SMALL_HEADS)
    expected = reference.attention(*given, *settings)
    if expected.numel():
        assert_close(found, expected)
    assert found.shape == expected.shape
