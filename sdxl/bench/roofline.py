"""How fast the work could be: every layer at the matrix peak or at the memory's speed.

Each matrix product takes the longer of its operations at the peak and its bytes at the bandwidth;
what lies between products is fused away, except one pass per norm. On a GPU the VAE counts at 60 %
of the 16-bit peak; a processor's peaks are measured, and what its last cache holds does not wait
for the memory. For 32 images in a batch on an H100 SXM this gives what the literature's arithmetic
gives: about 3.1 images/s in fp16 and 5.1 with convolutions and Linears in 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sdxl.bench import peaks, products
from sdxl.config import schema
from sdxl.config.schema import DType
from sdxl.core.errors import UserError
from sdxl.model import cost
from sdxl.model.components import torch_dtype

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
    "NVIDIA H100 80GB HBM3": Peaks("H100 SXM", 1978.9e12, 989.4e12, 494.7e12, 3.35e12),
    "NVIDIA H200": Peaks("H200 SXM", 1978.9e12, 989.4e12, 494.7e12, 4.8e12),
}
"""By torch's whole name for the device: PCIe, NVL, GH200 and slices (MIG) have other limits."""


def peaks_of(device_name: str) -> Peaks | None:
    """The peaks of a GPU, if its data sheet is here."""
    return PEAKS.get(device_name)


@dataclass(frozen=True)
class Work:
    """A batch: the products of its UNet calls, by kind of call, and what stands around them."""

    images: int
    unet: products.Calls
    decode_flop: float
    encode_flop: float
    wide: bool  # the UNet in fp32

    def images_per_second(self, peaks: Peaks) -> float:
        """The roofline's rate on a device."""
        sixteen = peaks.fp32 if self.wide else peaks.sixteen_bit
        unet = sum(
            calls
            * max(
                each.flop / (peaks.eight_bit if each.eight_bit else sixteen),
                each.moved / peaks.memory if each.moved > peaks.cache_bytes else 0.0,
            )
            for calls, found in self.unet
            for each in found
        )
        seconds = unet + self.encode_flop / peaks.sixteen_bit
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
    calls = products.of_calls(config, batch, set() if simulated else None)
    return _work(config, batch, counted, calls(config.shortcut))


def works_of(
    config: schema.Config, batch: int, counted: cost.Cost, names: Sequence[str]
) -> dict[str, Work]:
    """What `batch` images take under each of these shortcuts that the model can use."""
    calls, found = products.of_calls(config, batch), {}
    for name in names:
        node = schema.GROUPS["shortcut"][name]
        shortcut = config.shortcut if name == config.shortcut.name else node(name)
        try:
            found[name] = _work(config, batch, counted, calls(shortcut))
        except UserError:  # no guidance to cut off, or blocks of another kind
            continue
    return found


def _work(config: schema.Config, batch: int, counted: cost.Cost, unet: products.Calls) -> Work:
    encoded = batch * counted.rows_per_image * counted.encode_flop
    wide = config.precision.unet is DType.fp32
    return Work(batch, unet, batch * counted.decode_flop, encoded, wide)


def measured_peak(dtype: torch.dtype, size: int = 1024, device: str = "cpu") -> float:
    """Operations/s of this device's best square matrix product, warm."""
    return peaks.matrix(dtype, (size,), device).value


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
    return any(each.eight_bit for _, found in work.unet for each in found)
