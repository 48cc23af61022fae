"""How fast the work could be: every layer at the matrix peak or at the memory's speed.

Each matrix product takes the longer of its operations at the peak and its bytes at the bandwidth;
what lies between products is fused away, except one pass per norm. On a GPU the VAE counts at 60 %
of the 16-bit peak; a processor's peaks are measured, and what its last cache holds does not wait
for the memory. For 32 images in a batch on an H100 SXM this gives what the literature's arithmetic
gives: about 3.1 images/s in fp16 and 5.1 with convolutions and Linears in 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sdxl.bench import peaks
from sdxl.config import schema
from sdxl.config.schema import DType, Format
from sdxl.model import cost, networks
from sdxl.model.components import torch_dtype
from sdxl.model.sources import shapes_source
from sdxl.quant import levels

VAE_SHARE = 0.6
"""Of the 16-bit peak: what its wide, thin convolutions can reach."""


@dataclass(frozen=True)
class Peaks:
    """Dense matrix peaks in operations/s, memory in bytes/s: of a data sheet, or measured."""

    name: str
    eight_bit: float
    sixteen_bit: float
    fp32: float  # TF32
    memory: float
    vae_share: float = VAE_SHARE
    cache_bytes: int = 0


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
                each.moved / peaks.memory if each.moved > peaks.cache_bytes else 0.0,
            )
            for each in self.products
        )
        seconds = self.calls * unet + self.encode_flop / peaks.sixteen_bit
        return self.images / (seconds + self.decode_flop / (peaks.vae_share * peaks.sixteen_bit))


def work_of(
    config: schema.Config,
    batch: int,
    counted: cost.Cost | None = None,
    simulated: bool = False,
) -> Work:
    """What `batch` images take; `counted` saves counting them again.

    simulated: quantized layers compute in the UNet's own numbers.
    """
    counted = counted or cost.count(config, batch)
    rows = batch * counted.rows_per_image
    return Work(
        batch,
        counted.unet_calls,
        _products(config, rows, set() if simulated else None),
        batch * counted.decode_flop,
        rows * counted.encode_flop,
        config.precision.unet is DType.fp32,
    )


def measured_peak(dtype: torch.dtype, size: int = 1024, device: str = "cpu") -> float:
    """Operations/s of this device's best square matrix product, warm."""
    return peaks.matrix(dtype, size, device)


def facts(
    config: schema.Config,
    device_name: str,
    batch: int,
    image_flop: int,
    on_gpu: bool = False,
    achieved: float = 0.0,
    work: Work | None = None,
) -> dict[str, Any]:
    """What the record says about the limit: of a known GPU by layer, else by what was measured.

    `matrix_tflops`: the best matrix products in the UNet's dtype (`on_gpu`: on the first of
    `backend.devices`). Limits are those of all devices together, as the rate is; workers on a
    processor share the one there is. `achieved`: images/s of this run; a measured limit below it
    was wrong, and is measured again. `work` saves counting it again.
    """
    dtype = config.precision.unet
    places = config.backend.devices or [0]
    count = 1 if device_name == "cpu" else len(places)
    times = f"{count} x " if count > 1 else ""
    if device_name == "cpu":
        work = work or work_of(config, batch)
        found = _processor(config, work)
        if achieved > work.images_per_second(found):
            found = _processor(config, work, again=True)
        own = found.fp32 if work.wide else found.sixteen_bit
        return {
            "device": found.name,
            "images_per_second": work.images_per_second(found),
            "matrix_tflops": own / 1e12,
            "memory_gb_per_s": found.memory / 1e9,
            **({"int8_tops": found.eight_bit / 1e12} if _eight_bits_in(work) else {}),
        }
    measured = {}
    if on_gpu:
        place = f"cuda:{places[0]}"
        matrix = count * measured_peak(torch_dtype(dtype), peaks.GPU_SIZE, place)
        measured = {"matrix_tflops": matrix / 1e12}
    if sheet := peaks_of(device_name):
        rate = count * (work or work_of(config, batch)).images_per_second(sheet)
        return {"device": times + sheet.name, "images_per_second": rate, **measured}
    if not measured:
        return {}
    return {
        "device": f"{times}{dtype.value} matrix products as measured here",
        "images_per_second": measured["matrix_tflops"] * 1e12 / image_flop,
        **measured,
    }


def within(limit: dict[str, Any], rate: float) -> dict[str, Any]:
    """A limit with the share of it that `rate` images/s is.

    A limit that was passed is none: the run itself then shows what the machine can do at least.
    """
    if rate <= limit["images_per_second"]:
        return {**limit, "share": rate / limit["images_per_second"]}
    text = f"{limit['device']}, which this run passed: it is the limit itself"
    return {**limit, "device": text, "images_per_second": rate, "share": 1.0}


def _processor(config: schema.Config, work: Work, again: bool = False) -> Peaks:
    """The measured peaks that this work needs, with as many threads as it runs on."""
    used = {*vars(config.precision).values()}
    formats = sorted({each.value for each in used if isinstance(each, DType)})
    found = {each: peaks.known(each, "cpu", "cpu", again) for each in formats}
    own = config.precision.unet.value
    eight_bit, names = found[own], own
    if _eight_bits_in(work):
        eight_bit, names = peaks.known(peaks.INT8, "cpu", "cpu", again), f"{own} and int8"
    name = f"{names} matrix products and memory as measured here, {torch.get_num_threads()} threads"
    memory = peaks.known(peaks.MEMORY, "cpu", "cpu", again)
    best = max(found.values())
    return Peaks(name, eight_bit, best, found[own], memory, 1.0, peaks.cache_bytes())


def _eight_bits_in(work: Work) -> bool:
    return any(each.eight_bit for each in work.products)


def _products(config: schema.Config, rows: int, eight_bit: set[str] | None = None) -> list[Product]:
    """Those of one forward of `rows` rows; a norm counts as a pass over its input and output.

    eight_bit: the layers with 8-bit factors; None: those that the recipe selects.
    """
    from diffusers.models.attention_processor import Attention

    model, dtype = config.model, torch_dtype(config.precision.unet)
    unet: Any = shapes_source(model, config.seed).component("unet", dtype, torch.device("meta"))
    eight_bit = _eight_bit(config, unet) if eight_bit is None else eight_bit
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
