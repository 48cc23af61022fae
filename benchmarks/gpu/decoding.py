"""The VAE alone and eager, 4 and 8 pictures at a time, and its bytes on the host.

Compiled it is in the steps of the whole model, whose stages are timed: its compilation alone would
take longer than this step may.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.gpu import clock
from benchmarks.gpu.child import Context
from benchmarks.gpu.model import composed

SIZES = (4, 8)


def run(context: Context, words: tuple[str, ...], batch: int) -> dict[str, Any]:
    """Milliseconds per picture, first calls beside them; a size that fails costs no other."""
    import torch

    from sdxl.backends.torch import attention
    from sdxl.backends.torch.config import Attention
    from sdxl.model.components import torch_dtype
    from sdxl.model.sources import open_source

    config = composed(context, words, batch)
    device = context.device
    source = open_source(config.model, config.seed)
    vae: Any = source.component("vae", torch_dtype(config.precision.vae), device)
    vae.to(memory_format=torch.channels_last)
    attention.install([vae], Attention.auto, device)
    found: dict[str, Any] = {}
    side = config.model.height // 8
    for size in SIZES[:1] if context.rehearse else SIZES:
        latents = torch.randn(size, 4, side, side, device=device, dtype=vae.dtype)
        try:
            with torch.inference_mode():
                found |= measured(vae, latents, size)
        except Exception as error:  # out of memory, for example
            clock.alive(device)
            found[f"eager {size}"] = {"error": clock.told(error)}
        context.note(vae=found)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what the graph held
    told = ", ".join(f"{key}: {each.get('ms_per_picture', each.get('error'))}"
                     for key, each in found.items())  # fmt: skip
    return {"line": f"ms per picture: {told}"}


def measured(vae: Any, latents: Any, size: int) -> dict[str, Any]:
    """The VAE on these latents, and the bytes of what it gives."""
    from sdxl.model import images

    def once() -> Any:
        return vae.decode(latents, return_dict=False)[0]

    began = time.perf_counter()
    picture = once()
    first = round(time.perf_counter() - began, 1)
    took = clock.candidate([once], latents.device)
    if "ms" in took:
        took["ms_per_picture"] = round(took["ms"] / size, 3)
    return {f"eager {size}": {**took, "first_call_s": first},
            f"bytes {size}": _bytes(picture, images, latents.device)}  # fmt: skip


def _bytes(picture: Any, images: Any, device: Any) -> dict[str, Any]:
    """From the VAE's values to bytes in host memory: on the device, and as it was before."""
    import numpy as np
    import torch

    def ours() -> Any:
        return images.to_host([images.on_device(picture)])

    def before() -> Any:
        return images.to_uint8(picture.permute(0, 2, 3, 1).float().cpu().numpy())

    times = {}
    for name, run in (("on the device", ours), ("on the host", before)):
        run()
        began = time.perf_counter()
        made = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times[name] = round(1e3 * (time.perf_counter() - began) / len(made), 3)
    same = bool(np.array_equal(ours(), before()))
    return {**times, "same_bytes": same, "ms_per_picture": times["on the device"]}
