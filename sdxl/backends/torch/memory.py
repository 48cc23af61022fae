"""GPU memory that a run of SDXL's shapes will need, estimated before it begins; no framework.

Per-pixel figures count the values alive at the worst moment, seen by running the networks on
PyTorch's meta device (tests/backends/torch/test_memory.py does it again); what libraries add is a
guess.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sdxl.backends.torch.config import Config, Execution
from sdxl.config import folder_words, footprint, schema
from sdxl.config.derive import batch_size
from sdxl.core.errors import Problem

VAE_VALUES = 1024
"""Per pixel of a decoded picture: four maps of 256 channels, three that the decoder holds before
its last block and the copy that GroupNorm makes of a channels-last one."""

UNET_VALUES = 96
"""Per pixel and row of the UNet: 79 that it holds at once, and the loop's own buffers."""

REST_BYTES = 3 << 30
"""CUDA's context, workspaces of libraries and what the allocator cannot use."""

LEAST_SLICE = 1


def needed_bytes(config: schema.Config) -> dict[str, int]:
    """Bytes by what needs them: weights, UNet, VAE and the rest."""
    backend = config.backend
    assert isinstance(backend, Config)
    batch, pixels = batch_size(config), config.model.height * config.model.width
    size = footprint.sizes(config)
    stored = dict(size)
    if backend.execution is Execution.real:
        stored["unet"] = footprint.quantized(config)
    embedded = folder_words.word(config.model, folder_words.UNET, "time_cond_proj_dim")
    rows = batch * (2 if config.model.guidance > 1 and not embedded else 1)
    decoded = min(backend.decode_batch_size or batch, batch)
    return {
        "weights": round(sum(n * stored[name] for name, n in footprint.PARAMETERS.items())),
        "UNet": rows * pixels * UNET_VALUES * int(size["unet"]),
        "VAE": decoded * pixels * VAE_VALUES * int(size["vae"]),
        "rest": REST_BYTES,
    }


def problems_of(config: schema.Config, memory_bytes: int) -> Iterator[Problem]:
    """The batch, or the slice of it that the VAE decodes at once, if it cannot fit the GPU."""
    if not isinstance(config.model, schema.SdxlModel | schema.RandomModel):
        return  # the miniatures fit anywhere
    needed = needed_bytes(config)
    if sum(needed.values()) <= memory_bytes:
        return
    listed = ", ".join(f"{name} {_gib(number)}" for name, number in needed.items())
    yield Problem(
        f"a batch of {batch_size(config)} will not fit the GPU's memory",
        f"about {_gib(sum(needed.values()))} GiB needed ({listed}), {_gib(memory_bytes)} there",
        "a smaller slice of the batch for the VAE, a smaller batch, or 16 bits",
        _fix(config, needed, memory_bytes),
    )


def _fix(config: schema.Config, needed: dict[str, int], memory_bytes: int) -> str:
    """The mildest setting that fits: fewer pictures per VAE call, else fewer per batch as well."""
    backend: Any = config.backend
    batch = batch_size(config)
    decoded = min(backend.decode_batch_size or batch, batch)
    of_one = needed["VAE"] // decoded
    left = memory_bytes - needed["weights"] - needed["rest"]
    slices = (left - needed["UNet"]) // of_one
    if slices >= LEAST_SLICE:
        return f"backend.decode_batch_size={slices}"
    sample = needed["UNet"] // batch
    fits = (left - LEAST_SLICE * of_one) // sample
    if fits >= 1:
        return f"backend.batch_size={min(fits, batch)} backend.decode_batch_size={LEAST_SLICE}"
    return "precision=bf16 backend.batch_size=1 backend.decode_batch_size=1"


def _gib(number: int) -> str:
    return f"{number / 2**30:.1f}"
