"""8-bit products of a GPU: cuBLAS and cuDNN through PyTorch, and the Triton kernels.

Each is one candidate for a layer. What the epilogue does (bias, residual, GEGLU) belongs to the
product and is timed with it; tiles are chosen at the first call, on its operands.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from sdxl.backends.torch.layer import Input, Layer

Residual = torch.Tensor | None

_one_kernel: dict[tuple[Any, ...], bool] = {}
"""Whether product and GEGLU are faster as one kernel, by shape and kind of product."""


def input_codes(layer: Layer, values: torch.Tensor) -> torch.Tensor:
    """Codes (M, K) of a layer's input values (M, K)."""
    from sdxl.backends.torch.kernels.quantize import quantize

    return quantize(values, layer.input.factors, layer.input.per_unit, layer.codes.dtype)


def geglu_codes(
    hidden: torch.Tensor, factors: torch.Tensor | None, per_unit: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Codes of value * gelu(gate) for hidden (M, 2K) = value | gate."""
    from sdxl.backends.torch.kernels.quantize import geglu_quantize

    return geglu_quantize(hidden, factors, per_unit, dtype)


class _Linear:
    """What the Linear kernels share."""

    name: str
    takes_codes = True

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        self.layer, self.input = layer, layer.input
        outputs = len(layer.codes)
        self.scale = (layer.unit * layer.input.unit).expand(outputs).contiguous()
        self._turns: tuple[torch.Tensor, torch.Tensor, Residual] | None = None

    def __call__(self, values: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The layer's output, plus a residual of its shape."""
        rest = residual if residual is None else residual.reshape(-1, residual.shape[-1])
        found = self.product(input_codes(self.layer, values.reshape(-1, values.shape[-1])), rest)
        return found.view(*values.shape[:-1], -1)

    def product(self, coded: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The output (M, N) for input codes (M, K), plus a residual."""
        raise NotImplementedError

    def geglu(self, coded: torch.Tensor, wanted: Input) -> torch.Tensor:
        """The next layer's codes (M, N / 2) of value * gelu(gate), where the output is both.

        One Triton kernel, or this product and a kernel after it: what is faster here.
        """
        from sdxl.backends.torch.kernels import tuning

        smooth = wanted.factors is not None
        key = (
            self.name,
            len(coded),
            *self.layer.codes.shape,
            coded.dtype,
            self.layer.dtype,
            smooth,
        )
        if key not in _one_kernel:
            _one_kernel[key] = tuning.interpreted() or tuning.milliseconds(
                lambda: self._one(coded, wanted)
            ) < tuning.milliseconds(lambda: self._two(coded, wanted))
        if _one_kernel[key]:
            return self._one(coded, wanted)
        self._turns = None
        return self._two(coded, wanted)

    def _one(self, coded: torch.Tensor, wanted: Input) -> torch.Tensor:
        from sdxl.backends.torch.kernels import gemm, tiles, tuning

        layer, bias = self.layer, self.layer.bias
        if self._turns is None:
            turned = None if bias is None else gemm.paired(bias)
            self._turns = gemm.paired(layer.codes), gemm.paired(self.scale), turned
        turns = self._turns

        def run(tile: Any) -> torch.Tensor:
            return gemm.gemm_geglu(
                coded, *turns, wanted.factors, wanted.per_unit, layer.dtype, tile
            )  # fmt: skip

        key = ("geglu", len(coded), *layer.codes.shape, coded.dtype, layer.dtype)
        outputs = len(coded) * len(layer.codes)
        return run(tuning.fastest(key, run, tiles.GEGLU, outputs))

    def _two(self, coded: torch.Tensor, wanted: Input) -> torch.Tensor:
        return geglu_codes(self.product(coded), wanted.factors, wanted.per_unit, coded.dtype)


class ScaledMm(_Linear):
    """torch._scaled_mm: FP8, one scale for the input and one for the weight."""

    name = "scaled_mm_fp8"

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        super().__init__(layer, example)
        self.columns = layer.codes.t()
        where = layer.codes.device
        self.left = torch.tensor(layer.input.unit, dtype=torch.float32, device=where)
        self.right = layer.unit.reshape(-1)[:1].reshape(()).float()

    @staticmethod
    def fits(layer: Layer) -> bool:
        """One scale for the whole weight, which joined layers have not; cuBLAS' multiples of 16."""
        return layer.unit.numel() == 1 and all(size % 16 == 0 for size in layer.codes.shape)

    def product(self, coded: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The output (M, N) for input codes (M, K), plus a residual."""
        left, right = self.scales(len(coded))
        bias, dtype = self.layer.bias, self.layer.dtype
        inside = dtype is not torch.float32  # cuBLAS adds no bias to an fp32 output
        found = torch._scaled_mm(
            coded, self.columns, scale_a=left, scale_b=right, bias=bias if inside else None,
            out_dtype=dtype, use_fast_accum=coded.is_cuda,
        )  # fmt: skip
        for rest in (None if inside else bias, residual):
            found = found if rest is None else found.add_(rest)
        return found

    def scales(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of the input and of the weight."""
        return self.left, self.right


class RowwiseMm(ScaledMm):
    """torch._scaled_mm with a scale for each row and column: q, k and v as one product."""

    name = "scaled_mm_fp8_rows"

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        super().__init__(layer, example)
        self.right = layer.unit.float().expand(len(layer.codes)).contiguous().view(1, -1)
        self._left: dict[int, torch.Tensor] = {}

    @staticmethod
    def fits(layer: Layer) -> bool:
        """A scale for each column; multiples of 16."""
        return layer.unit.numel() > 1 and all(size % 16 == 0 for size in layer.codes.shape)

    def scales(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(M, 1) and (1, N)."""
        if rows not in self._left:
            self._left[rows] = self.left.expand(rows, 1).contiguous()
        return self._left[rows], self.right


class TritonLinear(_Linear):
    """The Triton product, its tile tuned for the shape."""

    name = "triton_gemm"

    def product(self, coded: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The output (M, N) for input codes (M, K), plus a residual."""
        from sdxl.backends.torch.kernels import gemm, tiles, tuning

        layer = self.layer

        def run(tile: Any) -> torch.Tensor:
            return gemm.gemm(
                coded, layer.codes, self.scale, layer.bias, residual, layer.dtype, tile
            )  # fmt: skip

        epilogue = (layer.bias is not None, residual is not None)
        key = ("linear", len(coded), *layer.codes.shape, coded.dtype, layer.dtype, *epilogue)
        outputs = len(coded) * len(layer.codes)
        return run(tuning.fastest(key, run, tiles.PLAIN, outputs))


class _Conv:
    """What the convolutions share."""

    name: str
    takes_codes = True
    framed = False
    """Takes codes with a row and a column of zeros after each image (N, h + 1, w + 1, C)."""

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        assert layer.conv is not None
        self.layer, self.input = layer, layer.input
        self.stride, self.padding = layer.conv.stride[0], layer.conv.padding[0]

    def __call__(self, values: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The layer's output (N, O, h, w), channels-last, plus a residual of its shape."""
        from sdxl.backends.torch.kernels.reference import framed

        pixels = values.permute(0, 2, 3, 1)
        flat = input_codes(self.layer, pixels.reshape(-1, pixels.shape[-1]))
        coded = flat.view(pixels.shape)
        return self.product(framed(coded) if self.framed else coded, residual)

    def product(self, coded: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The output (N, O, h, w) for codes (N, h, w, C) or framed, plus a residual like it."""
        raise NotImplementedError


class TritonConv(_Conv):
    """The Triton implicit product, its tile tuned for the shape; 1 x 1 is a plain product."""

    name = "triton_conv"

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        super().__init__(layer, example)
        self.weight = layer.codes.permute(0, 2, 3, 1).contiguous()
        self.scale = (layer.unit * layer.input.unit).expand(len(layer.codes)).contiguous()
        geometry = (self.weight.shape[1], self.stride, self.padding)
        self.framed, self.flat = geometry == (3, 1, 1), geometry == (1, 1, 0)

    def product(self, coded: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The output (N, O, h, w) for codes (N, h, w, C) or framed, plus a residual like it."""
        from sdxl.backends.torch.kernels import tiles, tuning

        rest = residual if residual is None else residual.permute(0, 2, 3, 1)
        listed = tiles.PLAIN if self.flat else tiles.CONV if self.framed else tiles.GATHERED
        outputs = coded.numel() // coded.shape[-1] // self.stride**2 * len(self.weight)
        key = ("conv", tuple(coded.shape), tuple(self.weight.shape), self.stride, coded.dtype,
               self.layer.dtype, self.layer.bias is not None, rest is not None)  # fmt: skip
        tile = tuning.fastest(key, lambda tile: self._run(coded, rest, tile), listed, outputs)
        return self._run(coded, rest, tile).permute(0, 3, 1, 2)

    def _run(self, coded: torch.Tensor, rest: Residual, tile: Any) -> torch.Tensor:
        """Images (N, h, w, O)."""
        from sdxl.backends.torch.kernels import conv, gemm

        given, end = (self.weight, self.scale, self.layer.bias), (self.layer.dtype, tile)
        if self.framed:
            return conv.framed_conv(coded, *given, rest, *end)
        if not self.flat:
            return conv.conv(coded, *given, rest, self.stride, self.padding, *end)
        wide = len(self.weight)
        rest = rest if rest is None else rest.reshape(-1, wide)
        pixels = coded.reshape(-1, coded.shape[-1])
        found = gemm.gemm(pixels, self.weight.view(wide, -1), *given[1:], rest, *end)
        return found.view(*coded.shape[:-1], wide)


class CudnnConv(_Conv):
    """cuDNN's 16-bit convolution of the codes, which 16 bits hold exactly."""

    name = "cudnn_16bit"

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        super().__init__(layer, example)
        unit = (layer.unit * layer.input.unit).view(-1, 1, 1, 1)
        self.weight = (layer.codes.float() * unit).to(
            layer.dtype, memory_format=torch.channels_last
        )

    def product(self, coded: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The output (N, O, h, w) for codes (N, h, w, C), plus a residual like it."""
        values = coded.to(self.layer.dtype).permute(0, 3, 1, 2)
        found = functional.conv2d(values, self.weight, self.layer.bias, self.stride, self.padding)
        return found if residual is None else found.add_(residual)
