"""Real 8-bit arithmetic on a CPU: each kernel against the simulated layer, then the model."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from sdxl.backends.torch import cpu, eight_bit, real
from sdxl.backends.torch import simulated as simulation
from sdxl.backends.torch.layer import Geometry, Simulated, read
from sdxl.bench.profile import ModuleTimes
from sdxl.config.schema import Format
from sdxl.model import codes
from sdxl.model.checkpoint import Checkpoint
from sdxl.model.sources import open_source
from sdxl.quant import build
from tests import coded
from tests.quant.conftest import make, with_quant
from tests.vnni import EXACT, needs_vnni

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8}
"""Of the largest output: accumulation in fp32, and one rounding to the output's dtype."""


def layer_of(weight, values, dtype, factors=None, bias=True, conv=None):
    """A layer quantized to INT8 with the ranges of `values`."""
    smoothed = values if factors is None else values * factors
    amax = smoothed.abs().amax().float() * 0.9  # some inputs are clipped
    given = torch.randn(len(weight)).to(dtype) if bias else None
    return coded.layer(Format.int8, weight, amax, dtype, factors, given, conv)


def simulated(layer, values):
    """The simulated layer's output, its products in fp32 from the same codes."""
    factors = layer.input.factors
    exact = dataclasses.replace(
        layer, dtype=torch.float32, bias=None if layer.bias is None else layer.bias.float(),
        input=dataclasses.replace(layer.input, factors=None),
    )  # fmt: skip
    smoothed = values if factors is None else values * factors
    return Simulated(exact, values)(smoothed.float()).to(layer.dtype)


def assert_close(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    error = (found.float() - expected.float()).abs().max() / expected.float().abs().max()
    assert error <= TOLERANCE[expected.dtype], float(error)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (513, 640)])
def test_codes_are_the_simulated_ones(shape, dtype):
    values, factors = torch.randn(shape).to(dtype), (torch.rand(shape[1]) + 0.5).to(dtype)
    amax = torch.tensor(1.7)
    for smooth in (None, factors):
        expected = codes.integer_codes(values if smooth is None else values * smooth, amax)
        kept = values.clone()
        found = cpu.int8_codes(values, smooth, codes.int8_per_unit(amax))
        assert torch.equal(found, expected)
        assert torch.equal(values, kept)
        wide = torch.stack([values, values], dim=-1)[..., 0]  # strides of 2
        found = cpu.int8_codes(wide, smooth, codes.int8_per_unit(amax))
        assert torch.equal(found, expected)
    assert not cpu.int8_codes(values, None, codes.int8_per_unit(torch.tensor(0.0))).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_geglu_codes_are_the_simulated_ones(dtype):
    hidden, factors = torch.randn(300, 2 * 70).to(dtype), (torch.rand(70) + 0.5).to(dtype)
    amax = torch.tensor(2.0)
    value, gate = hidden.chunk(2, dim=-1)
    product = value * functional.gelu(gate)
    for smooth in (None, factors):
        expected = codes.integer_codes(product if smooth is None else product * smooth, amax)
        found = cpu.geglu_codes(hidden, smooth, codes.int8_per_unit(amax), torch.int8)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [pytest.param(cpu.OneDnnLinear, marks=needs_vnni), cpu.IntMm])
@pytest.mark.parametrize("shape", [(1, 5, 3), (7, 33, 5), (2, 40, 64, 48)])
def test_a_linear_is_the_simulated_one(shape, kernel, dtype):
    *rows, width, outputs = shape
    values = torch.randn(*rows, width).to(dtype)
    for factors, bias in ((None, False), ((torch.rand(width) + 0.5).to(dtype), True)):
        layer = layer_of(torch.randn(outputs, width), values, dtype, factors, bias)
        expected = simulated(layer, values)
        ready = kernel(layer, values)
        assert_close(ready(values), expected)
        assert_close(ready(values[..., :1, :]), expected[..., :1, :])  # fewer rows than made for
        strided = torch.stack([values, values], dim=-1)[..., 1]
        assert_close(ready(strided), expected)


@needs_vnni
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"), [(8, 3, 1, 1), (7, 3, 2, 1), (5, 1, 1, 0)]
)
def test_a_convolution_is_the_simulated_one(size, kernel, stride, padding, dtype):
    geometry = Geometry([stride] * 2, [padding] * 2, [1, 1])
    for inner, outer, bias in ((16, 32, True), (3, 5, False)):
        values = torch.randn(2, inner, size, size).to(dtype)
        layer = layer_of(
            torch.randn(outer, inner, kernel, kernel), values, dtype, bias=bias, conv=geometry
        )
        expected = simulated(layer, values)
        for given in (values, values.to(memory_format=torch.channels_last)):
            assert_close(cpu.OneDnnConv(layer, given)(given), expected)


def test_a_kernel_that_overflows_is_not_used(monkeypatch):
    class Overflows(cpu.IntMm):
        def product(self, signed):
            return super().product(signed) % 2**15

    class Missing(cpu.IntMm):
        def product(self, signed):
            return torch.ops.onednn.no_such_kernel(signed)

    monkeypatch.setitem(cpu.CANDIDATES, "linear", (Overflows, Missing, cpu.IntMm))
    assert cpu.usable("linear", Format.int8, CPU) == [cpu.IntMm]


def restored(config, execution):
    """The UNet of a recipe, and what executes it."""
    made = build.prepare(config)
    shapes = open_source(config.model, config.seed).component("unet", torch.float32, CPU)
    shapes = shapes.to("meta")
    if execution == "real":
        return real.restore(shapes, made.path, torch.float32, CPU)
    return simulation.restore(shapes, made.path, torch.float32, CPU), None


def given(unet):
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    return {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor(500.0),
        "encoder_hidden_states": torch.randn(2, 77, config.cross_attention_dim),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(2, pooled), "time_ids": torch.full((2, 6), 64.0),
        },
        "return_dict": False,
    }  # fmt: skip


@pytest.fixture
def only_8_bit(monkeypatch):
    """Kernels are chosen by timing; here oneDNN's always win."""
    monkeypatch.setattr(cpu, "best_ms", lambda kernel, *_: float(kernel.name != "onednn_int8"))


@needs_vnni
@pytest.mark.parametrize(
    ("level", "counts"),
    [(1.0, (26, 0)), (2.0, (26, 22)), (2.5, (26, 88)), (3.0, (26, 124))],
)
def test_every_layer_of_every_level(config, statistics, warm_store, only_8_bit, level, counts):
    """Layer by layer on the same inputs, then the whole network within the quantization noise."""
    recipe = with_quant(config, level=level)
    ours, choice = restored(recipe, "real")
    rounding, _ = restored(recipe, "simulated")
    seen: dict[str, tuple] = {}
    names = [name for name, m in ours.named_modules() if isinstance(m, eight_bit.EightBit)]
    for name in names:
        rounding.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: (args[0], out)})
        )
    plain = open_source(config.model, config.seed).component("unet", torch.float32, CPU)
    sample = given(plain)
    with torch.inference_mode():
        expected = rounding(**sample)[0]
        found = ours(**sample)[0]
        stored = Checkpoint(build.prepare(recipe).path)
        for name in names:
            module: Any = ours.get_submodule(name)
            layer = read(stored, name, rounding.get_submodule(name), torch.float32, CPU)
            bare = dataclasses.replace(layer, input=dataclasses.replace(layer.input, factors=None))
            rounded, out = seen[name]  # the input after smoothing and rounding
            assert_close(type(module.kernel)(bare, rounded)(rounded), out)
        unquantized = plain(**sample)[0]
    noise = (expected - unquantized).norm()
    assert 0 < (found - expected).norm() < 1.5 * noise
    assert (found - unquantized).norm() < 1.5 * noise
    described = choice.describe()
    kinds = [layer.kind for layer in stored.layers.values()]
    assert (kinds.count("conv"), kinds.count("linear")) == counts
    assert described["kernels"] == {"onednn_int8": sum(counts)} and not described["fallbacks"]
    assert set(described["layers"]) == set(names) and len(names) == sum(counts)


def test_level_4_falls_back_and_says_so(warm_store):
    recipe = make("quant=fp8_mha", "calib_size=1")
    real, choice = restored(recipe, "real")
    rounding, _ = restored(recipe, "simulated")
    sample = given(real)
    with torch.inference_mode():
        assert torch.equal(real(**sample)[0], rounding(**sample)[0])
    described = choice.describe()
    assert described["real_layers"] == 0
    assert set(described["fallbacks"]) == {"no fp8 arithmetic on a CPU"}
    assert described["simulated_layers"] == len(choice.fallbacks)


def test_timing_decides_and_is_recorded(config, statistics, warm_store):
    recipe = with_quant(config, level=2.0)
    real, choice = restored(recipe, "real")
    sample = given(real)
    with torch.inference_mode(), ModuleTimes(real) as times:
        real(**sample)
    described = choice.describe()
    assert described["real_layers"] + described["simulated_layers"] == 48
    assert sum(described["kernels"].values()) == described["real_layers"]
    for shape in described["shapes"]:
        assert shape["ms"][shape["chosen"]] == min(shape["ms"].values())
        assert len(shape["ms"]) == len(cpu.usable(shape["layer"], Format.int8, CPU)) + 1
    assert {shape["layer"] for shape in described["shapes"]} == (
        {"linear", "conv"} if EXACT else {"linear"}
    )
    kinds = times.by_kind()
    assert set(kinds) == {"linear", "conv", "attention", "norm", "activation", "other"}
    assert all(seconds > 0 for seconds in kinds.values())
    assert len(times.longest(3)) == 3


def test_layers_of_one_shape_share_the_outcome_if_they_have_the_same_kernels():
    class Fast(Simulated):
        name = "fast"

        @staticmethod
        def fits(layer):
            return layer.name != "odd"

    milliseconds = {"fast": 1.0, "simulated": 2.0}
    choice = eight_bit.Choice(CPU)
    choice.usable = lambda *_: [Fast]
    choice.home = SimpleNamespace(best_ms=lambda kernel, *_: milliseconds[kernel.name])
    values = torch.randn(4, 32)
    layer = layer_of(torch.randn(16, 32), values, torch.float32)
    for name in ("odd", "even", "other"):
        choice.kernel(dataclasses.replace(layer, name=name), values)
    assert choice.layers == {"odd": "simulated", "even": "fast", "other": "fast"}
    image = torch.randn(1, 4, 8, 8)
    conv = layer_of(torch.randn(6, 4, 3, 3), image, torch.float32,
                    conv=Geometry([2, 2], [1, 1], [1, 1]))  # fmt: skip
    choice.kernel(conv, image)
    assert [shape["weight"] for shape in choice.describe()["shapes"]] == [
        [16, 32], [16, 32], [6, 4, 3, 3],
    ]  # fmt: skip


def test_a_convolution_in_groups_is_simulated(config, statistics, warm_store):
    stored = Checkpoint(build.prepare(config).path)
    entry = next(layer for layer in stored.layers.values() if layer.kind == "conv")
    choice = eight_bit.Choice(CPU)
    choice.usable = lambda *_: [cpu.OneDnnConv]
    assert choice.why_not(entry, nn.Conv2d(4, 4, 3)) is None
    assert "groups" in (choice.why_not(entry, nn.Conv2d(4, 4, 3, groups=2)) or "")
    choice.usable = lambda *_: []
    assert "no exact int8 conv" in (choice.why_not(entry, nn.Conv2d(4, 4, 3)) or "")
