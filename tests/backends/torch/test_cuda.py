"""The GPU's 8-bit layers against the simulated ones: Triton interpreted, _scaled_mm on the CPU."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from sdxl.backends.torch import cuda
from sdxl.backends.torch.layer import Geometry, Simulated, joined
from sdxl.config.schema import Format
from tests import coded
from tests.backends.torch.kernels.test_kernels import assert_close

CPU = torch.device("cpu")


def layer_of(number, weight, values, conv=None):
    """A bf16 layer with a bias, quantized with the ranges of `values`."""
    amax, bias = values.abs().amax().float(), torch.randn(len(weight)).bfloat16()
    return coded.layer(number, weight, amax, torch.bfloat16, bias=bias, conv=conv)


def simulated(layer, values):
    """The simulated layer with its products in fp32."""
    exact = dataclasses.replace(layer, dtype=torch.float32, bias=layer.bias.float())
    return Simulated(exact, values)(values.float()).bfloat16()


CASES = [(n, k) for n in (Format.int8, Format.fp8) for k in cuda.candidates("linear", n)]


@pytest.mark.parametrize(("number", "kernel"), CASES)
def test_linear(number, kernel):
    torch.manual_seed(0)
    values = torch.randn(2, 5, 48).bfloat16()
    layer = layer_of(number, torch.randn(32, 48), values)
    assert_close(kernel(layer, values)(values), simulated(layer, values))


@pytest.mark.parametrize("number", [Format.int8, Format.fp8])
@pytest.mark.parametrize("candidate", cuda.candidates("conv", Format.fp8))
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0)])
def test_conv(number, candidate, kernel, stride, padding):
    torch.manual_seed(0)
    values = torch.randn(1, 6, 5, 5).bfloat16().to(memory_format=torch.channels_last)
    geometry = Geometry([stride] * 2, [padding] * 2, [1, 1])
    layer = layer_of(number, torch.randn(7, 6, kernel, kernel), values, geometry)
    made, expected = candidate(layer, values), simulated(layer, values)
    found = made(values)
    bound = 1 if candidate is cuda.TritonConv else 4  # weights rounded to 16 bits
    assert_close(found, expected, bound)
    assert found.is_contiguous(memory_format=torch.channels_last)
    residual = torch.randn_like(expected)
    assert_close(made(values, residual), (expected.float() + residual).bfloat16(), 2 * bound)


def test_cublas_takes_multiples_of_16():
    values = torch.randn(2, 5, 48).bfloat16()
    fits = [
        cuda.ScaledMm.fits(layer_of(Format.fp8, torch.randn(outputs, width), values))
        for outputs, width in ((32, 48), (40, 48), (32, 40))
    ]
    assert fits == [True, False, False]


def test_fp8_in_fp32_adds_its_bias_where_cublas_does_not(monkeypatch):
    """A GPU's rule: "Bias is not supported when out_dtype is set to Float32"."""
    scaled_mm = torch._scaled_mm

    def cublas(*given, bias=None, out_dtype=None, **rest):
        if bias is not None and out_dtype is torch.float32:
            raise RuntimeError("Bias is not supported when out_dtype is set to Float32")
        return scaled_mm(*given, bias=bias, out_dtype=out_dtype, **rest)

    monkeypatch.setattr(torch, "_scaled_mm", cublas)
    values, residual = torch.randn(10, 48), torch.randn(10, 32)
    bias = torch.randn(32)
    layer = coded.layer(Format.fp8, torch.randn(32, 48), values.amax(), torch.float32, bias=bias)
    found = cuda.ScaledMm(layer, values)(values, residual)
    assert torch.allclose(found, Simulated(layer, values)(values, residual), atol=1e-4)


def test_a_kernel_that_refuses_one_kind_of_layer_is_left_out_there(monkeypatch):
    from sdxl.backends.torch.eight_bit import Choice

    def rows(self, *_):
        raise error

    monkeypatch.setattr(cuda.RowwiseMm, "product", rows)
    monkeypatch.setattr(cuda, "best_ms", lambda kernel, *given: kernel(*given).numel() * 1.0)
    values = torch.randn(4, 32).half()
    one = coded.layer(Format.fp8, torch.randn(16, 32), values.amax().float(), torch.float16)
    layer = joined([one, one])
    choice = Choice(CPU)
    choice.home = cuda
    choice._usable["linear", Format.fp8] = [cuda.RowwiseMm]
    error = RuntimeError("Only bf16 high precision output types are supported for row-wise scaling")
    assert isinstance(choice.kernel(layer, values), Simulated)
    assert choice.describe()["refused"] == {
        "fp8 linear 32x32 in float16": {cuda.RowwiseMm.name: f"RuntimeError: {error}"}
    }
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        choice.kernel(layer, values[:2])


@pytest.mark.parametrize("kind", ["assembler", "compiler"])
def test_a_tile_that_is_refused_is_left_out(kind, monkeypatch):
    from triton.runtime import errors

    from sdxl.backends.torch.kernels import tiles, tuning

    error = errors.PTXASError if kind == "assembler" else RuntimeError
    monkeypatch.setattr(tuning, "milliseconds", lambda run: run() or 1.0)

    def run(tile):
        if tile is not tiles.PLAIN[2]:
            raise error("registers")

    assert tuning.tune(run, tiles.PLAIN)[0] is tiles.PLAIN[2]
    with pytest.raises(RuntimeError, match=r"no tile works.*128x128x128.*registers"):
        tuning.tune(run, tiles.PLAIN[:2])


def test_all_candidates_are_exact_and_a_broken_one_is_left_out_with_its_reason(monkeypatch):
    for number in (Format.int8, Format.fp8):
        for kind in ("linear", "conv"):
            wanted = [k for k in cuda.candidates(kind, number) if "scaled_mm" not in k.name]
            found = cuda.usable(kind, number, CPU)
            assert [k for k in found if k in wanted] == wanted
    refused = {}
    monkeypatch.setattr(cuda.TritonLinear, "product", lambda self, *_: 1 / 0)
    assert cuda.usable("linear", Format.int8, CPU, refused) == []
    assert refused == {"triton_gemm": "ZeroDivisionError: division by zero"}
    right = cuda.TritonConv.product
    monkeypatch.setattr(cuda.TritonConv, "product",
                        lambda self, *given: right(self, *given) * 1.25)  # fmt: skip
    refused = {}
    assert cuda.usable("conv", Format.int8, CPU, refused) == [cuda.CudnnConv]
    assert refused == {"triton_conv": "wrong by 0.25 of the largest"}


def test_why_a_layer_is_simulated_is_told(monkeypatch):
    from sdxl.backends.torch.eight_bit import Choice

    def broken(self, *_):
        raise RuntimeError("PassManager::run failed\n  at line 3")

    monkeypatch.setattr(cuda.TritonLinear, "product", broken)
    choice = Choice(CPU)
    choice.home = cuda
    entry = SimpleNamespace(weight_only=False, format=Format.int8, kind="linear")
    reason = choice.why_not(entry, torch.nn.Linear(2, 2))
    assert reason == ("no exact int8 linear kernel on this device (triton_gemm: RuntimeError: "
                      "PassManager::run failed at line 3)")  # fmt: skip
    assert choice.describe()["refused"]["int8 linear"].keys() == {"triton_gemm"}


def test_a_compilers_error_is_told_with_its_reason():
    from sdxl.backends.torch.kernels.words import short

    try:
        try:
            raise TypeError("two types")
        except TypeError as reason:
            raise ValueError("at 3:4:\n  return x\n  ^") from reason
    except ValueError as error:
        assert short(error) == "ValueError: two types"
    assert len(short(ValueError("x" * 999))) <= 220


def test_a_small_product_is_not_timed(monkeypatch):
    from sdxl.backends.torch.kernels import tiles, tuning

    monkeypatch.setattr(tuning, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(tuning, "milliseconds", lambda run: run() or 1.0)
    monkeypatch.setattr(tuning, "_chosen", {})
    tried = []
    for outputs in (64 * 96, 1 << 16, 1 << 16):
        tile = tuning.fastest((outputs,), tried.append, tiles.CONV, outputs)
        assert tile is (tiles.CONV[-1] if outputs < 1 << 16 else tiles.CONV[0])
    assert tried == list(tiles.CONV)  # once, and not for the small one


def test_tiles_that_do_not_fit_are_not_tried():
    from sdxl.backends.torch.kernels import tiles

    assert tiles.fitting(tiles.PLAIN, 90) == tiles.PLAIN
    for capability in (80, 86, 89, 75):
        fitting = tiles.fitting(tiles.PLAIN, capability)
        assert fitting and not any(tile.TMA for tile in fitting)
        assert all(tile.shared_bytes <= 166_912 for tile in fitting)


@pytest.mark.parametrize("kernel", [cuda.TritonLinear, cuda.ScaledMm])
def test_geglu_as_one_kernel_or_two(kernel, monkeypatch):
    from sdxl.backends.torch import products

    torch.manual_seed(0)
    values = torch.randn(19, 48).bfloat16()
    layer = layer_of(Format.fp8, torch.randn(64, 48), values)
    next_layer = layer_of(Format.fp8, torch.randn(16, 32), torch.randn(19, 32) * 8)
    made = kernel(layer, values)
    given = products.input_codes(layer, values)
    one = made.geglu(given, next_layer.input)
    monkeypatch.setattr(products, "_one_kernel", dict.fromkeys(
        products._one_kernel, False))  # fmt: skip
    two = made.geglu(given, next_layer.input)
    steps = one.view(torch.int8).int() - two.view(torch.int8).int()
    assert steps.abs().max() <= 1 and (steps != 0).float().mean() <= 0.03
    assert made._turns is None
