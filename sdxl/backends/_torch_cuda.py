"""8-bit arithmetic of a GPU: cuBLAS through torch._scaled_mm, and the Triton kernels.

Written against CUDA and, where a test can, run under Triton's interpreter on a CPU.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from sdxl.backends._torch_layer import Input, Kernel, Layer, extreme
from sdxl.schema import Format

_tiles: dict[tuple[Any, ...], Any] = {}
"""The tile that was fastest, by shape."""

_apart: dict[tuple[Any, ...], bool] = {}
"""Whether a product and its GEGLU are faster as two kernels, by shape."""

Residual = torch.Tensor | None


def _tile(key: tuple[Any, ...], run: Any, listed: str) -> Any:
    """The fastest tile of a list of `kernels.tiles`, by the list's name."""
    from sdxl.kernels import tiles

    return tuned((listed, *key), run, getattr(tiles, listed), tiles.SMALL)


def tuned(key: tuple[Any, ...], run: Any, listed: tuple[Any, ...], small: Any) -> Any:
    """The fastest tile for a shape; under the interpreter, where time says nothing, a small one."""
    if _interpreted():
        return small
    if key not in _tiles:
        from sdxl.kernels import tiles, tuning

        major, minor = torch.cuda.get_device_capability()
        _tiles[key], _ = tuning.tune(run, tiles.fitting(listed, 10 * major + minor))
    return _tiles[key]


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _ms(run: Any) -> float:
    from sdxl.kernels import tuning

    return tuning.milliseconds(run)


def _codes(layer: Layer, values: torch.Tensor) -> torch.Tensor:
    from sdxl.kernels.quantize import quantize

    return quantize(values, layer.input.factors, layer.input.per_unit, layer.codes.dtype)


def geglu_codes(
    hidden: torch.Tensor, factors: torch.Tensor | None, per_unit: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Codes of value * gelu(gate) for hidden (M, 2K) = value | gate."""
    from sdxl.kernels.quantize import geglu_quantize

    return geglu_quantize(hidden, factors, per_unit, dtype)


def layer_norm_codes(
    values: torch.Tensor, norm: Any, inputs: list[Input], dtype: torch.dtype
) -> list[torch.Tensor]:
    """Codes (M, K) of norm(values) for each consumer, in one pass."""
    from sdxl.kernels.quantize import layer_norm_quantize

    per_unit = torch.stack([each.per_unit.reshape(()) for each in inputs])
    smoothed = [each.factors for each in inputs if each.factors is not None]
    factors = torch.stack(smoothed) if smoothed else None
    assert len(smoothed) in (0, len(inputs)), "all of them are smoothed, or none"
    found = layer_norm_quantize(
        values, norm.weight, norm.bias, norm.eps, factors, per_unit, dtype
    )  # fmt: skip
    return list(found.unbind())


def group_norm_codes(
    pixels: torch.Tensor, norm: Any, layer: Any, skip: torch.Tensor | None = None,
    added: torch.Tensor | None = None, activate: bool = True,
) -> torch.Tensor:  # fmt: skip
    """Codes of silu(norm(pixels + added)) for a layer's kernel, a skip's channels behind the own.

    pixels (N, h, w, C); added (N, C) or None. Codes (N, h, w, C), with the frame that the kernel
    asks for.
    """
    from sdxl.kernels.group_norm import group_norm_quantize

    kernel = layer.kernel
    return group_norm_quantize(
        pixels, norm.num_groups, norm.weight, norm.bias, norm.eps, kernel.input.per_unit,
        layer.code, skip, added, activate, getattr(kernel, "framed", False),
    )  # fmt: skip


class _Linear:
    """What the Linear kernels share."""

    takes_codes = True

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        self.layer, self.input = layer, layer.input

    def __call__(self, values: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The layer's output, plus a residual of its shape."""
        rest = residual if residual is None else residual.reshape(-1, residual.shape[-1])
        found = self.product(_codes(self.layer, values.reshape(-1, values.shape[-1])), rest)
        return found.view(*values.shape[:-1], -1)

    def product(self, coded: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The output (M, N) for input codes (M, K), plus a residual."""
        raise NotImplementedError


class ScaledMm(_Linear):
    """torch._scaled_mm: FP8, one scale for the input and one for the weight."""

    name = "scaled_mm_fp8"

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        super().__init__(layer, example)
        where = layer.codes.device
        self.columns = layer.codes.t()
        self.left = torch.tensor(layer.input.unit, dtype=torch.float32, device=where)
        self.right = layer.unit.reshape(()).float()

    @staticmethod
    def fits(layer: Layer) -> bool:
        """One scale for the whole weight, which joined layers have not; cuBLAS' multiples of 16."""
        return layer.unit.numel() == 1 and all(size % 16 == 0 for size in layer.codes.shape)

    def product(self, coded: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The output (M, N) for input codes (M, K), plus a residual."""
        found = torch._scaled_mm(
            coded, self.columns, scale_a=self.left, scale_b=self.right, bias=self.layer.bias,
            out_dtype=self.layer.dtype, use_fast_accum=coded.is_cuda,
        )  # fmt: skip
        return found if residual is None else found.add_(residual)


class TritonLinear(_Linear):
    """The Triton product, its tile tuned for the shape."""

    name = "triton_gemm"

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        super().__init__(layer, example)
        outputs, width = layer.codes.shape
        self.scale = (layer.unit * layer.input.unit).expand(outputs).contiguous()
        rows = example.numel() // width
        key = ("linear", rows, width, outputs, layer.codes.dtype, layer.dtype)
        coded = torch.zeros(rows, width, dtype=torch.int8, device=layer.codes.device)
        self.tile = _tile(key, lambda tile: self._run(coded.view(layer.codes.dtype), tile), "PLAIN")

    def product(self, coded: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The output (M, N) for input codes (M, K), plus a residual."""
        return self._run(coded, self.tile, residual)

    def geglu(self, coded: torch.Tensor, wanted: Input) -> torch.Tensor:
        """The next layer's codes (M, N / 2) of value * gelu(gate), where the output is both.

        The product with GEGLU in its epilogue, or one kernel after the other: what is faster here.
        """
        key = ("geglu", len(coded), *self.layer.codes.shape, coded.dtype, self.layer.dtype)
        tile = _tile(key, lambda tile: self._geglu(coded, wanted, tile), "GEGLU")
        if key not in _apart and not _interpreted():
            _apart[key] = _ms(lambda: self._two(coded, wanted)) < _ms(
                lambda: self._geglu(coded, wanted, tile)
            )
        return self._two(coded, wanted) if _apart.get(key) else self._geglu(coded, wanted, tile)

    def _geglu(self, coded: torch.Tensor, wanted: Input, tile: Any) -> torch.Tensor:
        from sdxl.kernels.gemm import gemm_geglu

        layer = self.layer
        return gemm_geglu(
            coded, layer.codes, self.scale, layer.bias, wanted.factors, wanted.per_unit,
            layer.dtype, tile,
        )  # fmt: skip

    def _two(self, coded: torch.Tensor, wanted: Input) -> torch.Tensor:
        return geglu_codes(self.product(coded), wanted.factors, wanted.per_unit, coded.dtype)

    def _run(self, coded: torch.Tensor, tile: Any, residual: Residual = None) -> torch.Tensor:
        from sdxl.kernels.gemm import gemm

        layer = self.layer
        return gemm(coded, layer.codes, self.scale, layer.bias, residual, layer.dtype, tile)


class TritonConv:
    """The Triton implicit product, its tile tuned for the shape."""

    name = "triton_conv"
    takes_codes = True

    def __init__(self, layer: Layer, example: torch.Tensor) -> None:
        from sdxl.kernels.conv import conv

        assert layer.conv is not None
        self.layer, self.input = layer, layer.input
        outputs = len(layer.codes)
        self.weight = layer.codes.permute(0, 2, 3, 1).contiguous()
        self.scale = (layer.unit * layer.input.unit).expand(outputs).contiguous()
        self.stride, self.padding = layer.conv.stride[0], layer.conv.padding[0]

        def run(coded: torch.Tensor, tile: Any, residual: Residual = None) -> torch.Tensor:
            return conv(
                coded, self.weight, self.scale, layer.bias, residual, self.stride, self.padding,
                layer.dtype, tile,
            )  # fmt: skip

        self._run = run
        key = ("conv", tuple(example.shape), tuple(self.weight.shape), self.stride, layer.dtype)
        pixels = example.permute(0, 2, 3, 1)
        blank = torch.zeros(pixels.shape, dtype=torch.int8, device=example.device)
        self.tile = _tile(key, lambda tile: run(blank.view(self.weight.dtype), tile), "CONV")

    def __call__(self, values: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The layer's output (N, O, h, w), channels-last, plus a residual of its shape."""
        pixels = values.permute(0, 2, 3, 1)
        coded = _codes(self.layer, pixels.reshape(-1, pixels.shape[-1])).view(pixels.shape)
        return self.product(coded, residual)

    def product(self, coded: torch.Tensor, residual: Residual = None) -> torch.Tensor:
        """The output (N, O, h, w) for codes (N, h, w, C), plus a residual (N, O, h, w)."""
        rest = residual if residual is None else residual.permute(0, 2, 3, 1)
        return self._run(coded, self.tile, rest).permute(0, 3, 1, 2)


def candidates(kind: str, number: Format) -> tuple[type[Kernel], ...]:
    """Kernels for a kind of layer in a number format."""
    if kind == "conv":
        return (TritonConv,)
    return (ScaledMm, TritonLinear) if number is Format.fp8 else (TritonLinear,)


def usable(kind: str, number: Format, device: torch.device) -> list[type[Kernel]]:
    """The candidates that compute a layer of large codes exactly on this device."""
    found = []
    for candidate in candidates(kind, number):
        layer, values, expected = extreme(kind, number, device)
        try:
            made = candidate(layer, values)(values)
            exact = torch.allclose(made.float(), expected.float(), rtol=2**-7)
        except Exception:  # noqa: S112  a kernel that cannot be built here, for whatever reason
            continue
        if exact:
            found.append(candidate)
    return found


def why_none(device: torch.device, number: Format) -> str | None:
    """What the GPU lacks for a number format, in words; None if it has it."""
    if device.type == "cuda" and number is Format.fp8:
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) < (8, 9):
            return f"no FP8 arithmetic on compute capability {major}.{minor}"
    return None


def best_ms(kernel: Kernel, example: torch.Tensor) -> float:
    """Milliseconds of one call, on CUDA events."""
    return _ms(lambda: kernel(example))
