"""How fast the work could be: every layer at the matrix peak or at the memory's speed.

Each matrix product takes the longer of its operations at the peak and its bytes at the bandwidth;
what lies between products is fused away, except one pass per norm. The VAE counts at 60 % of the
16-bit peak. For 32 images in a batch on an H100 SXM this gives what the literature's arithmetic
gives: about 3.1 images/s in fp16 and 5.1 with convolutions and Linears in 8 bits.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sdxl.config import schema
from sdxl.config.schema import DType, Format
from sdxl.model import cost, networks
from sdxl.model.components import torch_dtype
from sdxl.model.sources import shapes_source
from sdxl.quant import levels

GPU_SIZE = 8192
"""Rows of the matrices whose product is a GPU's measured peak: less does not fill it."""

VAE_SHARE = 0.6
"""Of the 16-bit peak: what its wide, thin convolutions can reach."""


@dataclass(frozen=True)
class Peaks:
    """A GPU's dense matrix peaks in operations/s, and its memory in bytes/s (data sheets)."""

    name: str
    eight_bit: float
    sixteen_bit: float
    fp32: float  # TF32
    memory: float


PEAKS = {
    "H100 80GB HBM3": Peaks("H100 SXM", 1978.9e12, 989.4e12, 494.7e12, 3.35e12),
    "H200": Peaks("H200 SXM", 1978.9e12, 989.4e12, 494.7e12, 4.8e12),
}
"""By a part of torch's name for the device; other H100 (PCIe, NVL) are other chips."""


def peaks_of(device_name: str) -> Peaks | None:
    """The peaks of a GPU, if its data sheet is here."""
    found = [peaks for part, peaks in PEAKS.items() if part in device_name]
    return found[0] if found and "NVL" not in device_name else None


@dataclass(frozen=True)
class Product:
    """A layer of the UNet: its operations, the bytes it moves, whether its factors have 8 bits."""

    flop: float
    moved: float
    eight_bit: bool


@dataclass(frozen=True)
class Work:
    """A batch: the products of one UNet forward, and what stands around it."""

    images: int
    calls: int
    products: list[Product]
    decode_flop: float
    encode_flop: float
    wide: bool  # the UNet in fp32

    def images_per_second(self, peaks: Peaks) -> float:
        """The roofline's rate on a device."""
        sixteen = peaks.fp32 if self.wide else peaks.sixteen_bit
        unet = sum(
            max(
                each.flop / (peaks.eight_bit if each.eight_bit else sixteen),
                each.moved / peaks.memory,
            )
            for each in self.products
        )
        seconds = self.calls * unet + self.encode_flop / peaks.sixteen_bit
        return self.images / (seconds + self.decode_flop / (VAE_SHARE * peaks.sixteen_bit))


def work_of(config: schema.Config, batch: int, counted: cost.Cost | None = None) -> Work:
    """What `batch` images take; `counted` saves counting them again."""
    counted = counted or cost.count(config, batch)
    rows = batch * counted.rows_per_image
    return Work(
        batch,
        counted.unet_calls,
        _products(config, rows),
        batch * counted.decode_flop,
        rows * counted.encode_flop,
        config.precision.unet is DType.fp32,
    )


def measured_peak(dtype: torch.dtype, size: int = 1024, device: str = "cpu") -> float:
    """Operations/s of this device's best of a few square matrix products."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    with torch.inference_mode():
        for _ in range(4):
            began = time.perf_counter()
            left @ right
            if device != "cpu":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def facts(
    config: schema.Config, device_name: str, batch: int, image_flop: int, on_gpu: bool = False
) -> dict[str, Any]:
    """What the record says about the limit: of a known GPU by layer, else by what was measured.

    `matrix_tflops`: the best of a few matrix products in the UNet's dtype, measured here and now
    (`on_gpu`: on the first of `backend.devices`). Both limits are those of all devices together,
    as the rate is; workers on a processor share the one there is.
    """
    dtype, matrix = config.precision.unet, None
    places = config.backend.devices or [0]
    count = 1 if device_name == "cpu" else len(places)
    times = f"{count} x " if count > 1 else ""
    if on_gpu:
        matrix = count * measured_peak(torch_dtype(dtype), GPU_SIZE, f"cuda:{places[0]}")
    elif device_name == "cpu":
        matrix = measured_peak(torch_dtype(dtype))
    measured = {"matrix_tflops": matrix / 1e12} if matrix else {}
    if peaks := peaks_of(device_name):
        rate = count * work_of(config, batch).images_per_second(peaks)
        return {"device": times + peaks.name, "images_per_second": rate, **measured}
    if not matrix:
        return {}
    return {
        "device": f"{times}{dtype.value} matrix products as measured here",
        "images_per_second": matrix / image_flop,
        **measured,
    }


def _products(config: schema.Config, rows: int) -> list[Product]:
    """Those of one forward of `rows` rows; a norm counts as a pass over its input and output."""
    from diffusers.models.attention_processor import Attention

    model, dtype = config.model, torch_dtype(config.precision.unet)
    unet: Any = shapes_source(model, config.seed).component("unet", dtype, torch.device("meta"))
    eight_bit = _eight_bit(config, unet)
    size = dtype.itemsize
    found: list[Product] = []

    def matrix(name: str) -> Any:
        def hook(module: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            eight = name in eight_bit
            moved = (given[0].numel() + module.weight.numel()) * (1 if eight else size)
            flop = 2 * out.numel() * module.weight[0].numel()
            found.append(Product(flop, moved + out.numel() * size, eight))

        return hook

    def norm(_module: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        moved = given[0].numel() * size + out.numel() * (1 if eight_bit else size)
        found.append(Product(0, moved, False))

    def attention(name: str) -> Any:
        def hook(module: Any, given: Any, words: Any, _out: torch.Tensor) -> None:
            keys = words.get("encoder_hidden_states")
            length = given[0].shape[1] if keys is None else keys.shape[1]
            queries = given[0].shape[0] * given[0].shape[1] * module.inner_dim
            held = 2 * queries + 2 * given[0].shape[0] * length * module.inner_dim
            found.append(Product(4 * queries * length, held * size, name in eight_bit))

        return hook

    for name, module in unet.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(matrix(name))
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
            module.register_forward_hook(norm)
        elif isinstance(module, Attention):
            module.register_forward_hook(attention(name), with_kwargs=True)
    with torch.inference_mode():
        unet(**networks.empty_inputs(unet, rows, model.height, model.width))
    return found


def _eight_bit(config: schema.Config, unet: Any) -> set[str]:
    """Layers whose product has two 8-bit factors."""
    if config.quant.format not in (Format.int8, Format.fp8):
        return set()
    return {layer.name for layer in levels.select(levels.layers_of(unet), config.quant)}
