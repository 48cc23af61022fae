"""What an 8-bit layer is to a kernel, and the layer computed without one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from sdxl.config.schema import Format
from sdxl.model import codes
from sdxl.model.checkpoint import Checkpoint


@dataclass(frozen=True)
class Input:
    """How a layer's input becomes codes.

    amax: 0-d; factors: (K,) in the model's dtype, or None; per_unit: 0-d fp32, codes per unit of
    value; unit: what one code stands for.
    """

    amax: torch.Tensor
    factors: torch.Tensor | None
    per_unit: torch.Tensor
    unit: float


@dataclass(frozen=True)
class Geometry:
    """A convolution's stride, padding and dilation."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]


@dataclass(frozen=True)
class Layer:
    """A quantized Linear or convolution.

    codes: int8 or float8_e4m3fn, (N, K) or (O, I, kh, kw); unit: fp32, (N,) of INT8 and (1,) of
    FP8, what one weight code stands for.
    """

    name: str
    kind: str
    format: Format
    codes: torch.Tensor
    weight_amax: torch.Tensor
    unit: torch.Tensor
    bias: torch.Tensor | None
    input: Input
    dtype: torch.dtype
    conv: Geometry | None = None


class Kernel(Protocol):
    """One way to compute a layer; made for it once, with an example of its input."""

    name: str
    takes_codes: bool
    """Has `product(codes)`, so that whoever made the input can make the codes."""

    def __init__(self, layer: Layer, example: torch.Tensor) -> None: ...

    def __call__(self, values: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """The layer's output, plus a residual of its shape."""
        ...


def joined(layers: list[Layer]) -> Layer:
    """Linears on one input, which becomes codes in the same way for all, as one: side by side."""
    first = layers[0]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    assert len(biases) in (0, len(layers)), "all of them have a bias, or none"
    sizes = [len(layer.codes) for layer in layers]
    units = [layer.unit.expand(size) for layer, size in zip(layers, sizes, strict=True)]
    amax = [layer.weight_amax.expand(size, 1) for layer, size in zip(layers, sizes, strict=True)]
    # E4M3 codes are joined as bytes.
    stored = torch.cat([layer.codes.view(torch.int8) for layer in layers])
    return replace(
        first,
        name="+".join(layer.name for layer in layers),
        codes=stored.view(first.codes.dtype),
        weight_amax=torch.cat(amax),
        unit=torch.cat(units),
        bias=torch.cat(biases) if biases else None,
    )


class Simulated:
    """The dequantized weight and a rounded input in the model's dtype."""

    name = "simulated"
    takes_codes = False

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        self.input, self.conv, self.bias = layer.input, layer.conv, layer.bias
        self.fp8 = layer.format is Format.fp8
        found = codes.from_fp8 if self.fp8 else codes.from_integer
        self.weight = found(layer.codes, layer.weight_amax).to(layer.dtype)
        if layer.conv:
            self.weight = self.weight.to(memory_format=torch.channels_last)

    def __call__(self, values: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """The layer's output, plus a residual of its shape."""
        found = self._product(values)
        return found if residual is None else found + residual

    def _product(self, values: torch.Tensor) -> torch.Tensor:
        smoothed = values if self.input.factors is None else values * self.input.factors
        rounded = codes.rounded(smoothed, self.input.amax, self.fp8)
        return product(rounded, self.weight, self.bias, self.conv)


class Float:
    """The dequantized weight on the input as it is: nothing but the weight is rounded."""

    name = "float"
    takes_codes = False

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        self.conv, self.bias = layer.conv, layer.bias
        weight = codes.from_integer(layer.codes, layer.weight_amax)
        if layer.input.factors is not None:  # SmoothQuant's, which the weight was divided by
            weight = weight * layer.input.factors.float()
        self.weight = weight.to(layer.dtype)
        if layer.conv:
            self.weight = self.weight.to(memory_format=torch.channels_last)

    def __call__(self, values: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """The layer's output, plus a residual of its shape."""
        found = product(values, self.weight, self.bias, self.conv)
        return found if residual is None else found.add_(residual)


def product(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, conv: Geometry | None
) -> torch.Tensor:
    """A Linear, or a convolution of this geometry, in floats."""
    if conv is None:
        return functional.linear(values, weight, bias)
    return functional.conv2d(values, weight, bias, conv.stride, conv.padding, conv.dilation)


def read(
    stored: Checkpoint, name: str, module: nn.Module, dtype: torch.dtype, device: torch.device
) -> Layer:
    """A layer from the checkpoint; `module` is the plain one, with its bias already loaded."""
    entry = stored.layers[name]
    amax, weight_amax = stored.tensor(f"{name}.input_amax"), stored.tensor(f"{name}.weight_amax")
    factors = stored.get(name, "pre_quant_scale")
    fp8 = entry.format is Format.fp8
    per_unit = codes.fp8_per_unit(amax) if fp8 else codes.int8_per_unit(amax)
    unit = 1 / per_unit if fp8 else codes.int8_unit(amax)
    weight_unit = 1 / codes.fp8_per_unit(weight_amax) if fp8 else codes.int8_unit(weight_amax)
    bias, conv = module._parameters["bias"], None
    if isinstance(module, nn.Conv2d):
        assert isinstance(module.padding, tuple)
        conv = Geometry(list(module.stride), list(module.padding), list(module.dilation))
    return Layer(
        name,
        entry.kind,
        entry.format,
        stored.tensor(f"{name}.weight").to(device),
        weight_amax.to(device),
        weight_unit.reshape(-1).to(device),
        None if bias is None else bias.detach(),
        Input(
            amax.to(device),
            None if factors is None else factors.to(device, dtype),
            per_unit.to(device),
            float(unit),
        ),
        dtype,
        conv,
    )


def extreme(
    kind: str, number: Format, device: torch.device
) -> tuple[Layer, torch.Tensor, torch.Tensor]:
    """A layer of large codes, an input of large values, and the exact output.

    INT8 on a CPU is in fp32, where equality is exact; a GPU's kernels write 16 bits.
    """
    width, amax = 96, torch.tensor(127.0)
    shape = (width, width) if kind == "linear" else (width, width, 3, 3)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    weight = torch.full(shape, 127.0)
    weight[::2] = -127
    rows = torch.full((32, width) if kind == "linear" else (1, width, 8, 8), 127.0)
    per_unit, unit = torch.tensor(1.0), 1.0
    stored = weight.to(torch.int8)
    if number is Format.fp8:  # 127 is no E4M3 number, 128 is
        weight, rows, amax = weight.sign() * 128, rows.sign() * 128, torch.tensor(448.0)
        stored = weight.to(torch.float8_e4m3fn)
    units = torch.ones(1 if number is Format.fp8 else width)
    layer = Layer(
        "extreme", kind, number, stored.to(device), torch.tensor(127.0, device=device),
        units.to(device), None, Input(amax.to(device), None, per_unit.to(device), unit), dtype,
        None if kind == "linear" else Geometry([1, 1], [1, 1], [1, 1]),
    )  # fmt: skip
    given = rows.to(device, dtype)
    if kind == "linear":
        exact = rows.double().matmul(weight.double().t())
    else:
        given = given.to(memory_format=torch.channels_last)
        exact = functional.conv2d(rows.double(), weight.double(), padding=1)
    return layer, given, exact.to(device, torch.float32)
