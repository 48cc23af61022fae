"""The GPU's 8-bit layers against the simulated ones: Triton interpreted, _scaled_mm on the CPU."""

import dataclasses

import pytest
import torch

from sdxl.backends import _torch_cuda
from sdxl.backends._torch_layer import Geometry, Simulated
from sdxl.schema import Format
from tests import coded
from tests.kernels.test_kernels import assert_close

CPU = torch.device("cpu")


def layer_of(number, weight, values, conv=None):
    """A bf16 layer with a bias, quantized with the ranges of `values`."""
    amax, bias = values.abs().amax().float(), torch.randn(len(weight)).bfloat16()
    return coded.layer(number, weight, amax, torch.bfloat16, bias=bias, conv=conv)


def simulated(layer, values):
    """The simulated layer with its products in fp32."""
    exact = dataclasses.replace(layer, dtype=torch.float32, bias=layer.bias.float())
    return Simulated(exact, values)(values.float()).bfloat16()


CASES = [(n, k) for n in (Format.int8, Format.fp8) for k in _torch_cuda.candidates("linear", n)]


@pytest.mark.parametrize(("number", "kernel"), CASES)
def test_linear(number, kernel):
    torch.manual_seed(0)
    values = torch.randn(2, 5, 48).bfloat16()
    layer = layer_of(number, torch.randn(32, 48), values)
    assert_close(kernel(layer, values)(values), simulated(layer, values))


@pytest.mark.parametrize("number", [Format.int8, Format.fp8])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0)])
def test_conv(number, kernel, stride, padding):
    torch.manual_seed(0)
    values = torch.randn(1, 6, 5, 5).bfloat16()
    geometry = Geometry([stride] * 2, [padding] * 2, [1, 1])
    layer = layer_of(number, torch.randn(7, 6, kernel, kernel), values, geometry)
    found = _torch_cuda.TritonConv(layer, values)(values)
    assert_close(found, simulated(layer, values))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_cublas_takes_multiples_of_16():
    values = torch.randn(2, 5, 48).bfloat16()
    fits = [
        _torch_cuda.ScaledMm.fits(layer_of(Format.fp8, torch.randn(outputs, width), values))
        for outputs, width in ((32, 48), (40, 48), (32, 40))
    ]
    assert fits == [True, False, False]


@pytest.mark.parametrize("kind", ["assembler", "compiler"])
def test_a_tile_that_is_refused_is_left_out(kind, monkeypatch):
    from triton.runtime import errors

    from sdxl.kernels import tiles, tuning

    error = errors.PTXASError if kind == "assembler" else RuntimeError
    monkeypatch.setattr(tuning, "milliseconds", lambda run: run() or 1.0)

    def run(tile):
        if tile is not tiles.PLAIN[2]:
            raise error("registers")

    assert tuning.tune(run, tiles.PLAIN)[0] is tiles.PLAIN[2]
    with pytest.raises(RuntimeError, match=r"no tile works.*128x128x128.*registers"):
        tuning.tune(run, tiles.PLAIN[:2])


def test_all_candidates_are_exact_and_a_broken_one_is_left_out(monkeypatch):
    for number in (Format.int8, Format.fp8):
        for kind in ("linear", "conv"):
            wanted = [k for k in _torch_cuda.candidates(kind, number) if k.name != "scaled_mm_fp8"]
            found = _torch_cuda.usable(kind, number, CPU)
            assert [k for k in found if k in wanted] == wanted
    monkeypatch.setattr(_torch_cuda.TritonLinear, "product", lambda self, _: 1 / 0)
    assert _torch_cuda.usable("linear", Format.int8, CPU) == []
