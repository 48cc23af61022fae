"""Is what the device computes in 8 bits what the simulation says, block by block and at the end?

Every transformer and residual block of the executed UNet is given the input that the same block of
the simulated one has just had; the two outputs are compared. Then whole denoised batches.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from benchmarks.gpu.child import Context

BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
"""diffusers' names of what the fused blocks stand for."""


def run(context: Context, sampler: Any, indices: list[int]) -> dict[str, Any]:
    """Errors by block, and the PSNR of latents in units of their own range."""
    simulated = _simulated(context)
    executed = sampler.latents(indices).float()
    with torch.inference_mode():
        errors = _blocks(context, sampler, simulated, indices)
    worst = sorted(errors.items(), key=lambda each: -each[1])
    context.note(blocks=dict(worst), blocks_compared=len(errors))
    expected = _latents(sampler, simulated, indices)
    found = {"executed": psnr(executed, expected), **beside(context, "simulated", expected)}
    middle = worst[len(worst) // 2][1] if worst else math.nan
    top = worst[0] if worst else ("no block", math.nan)
    line = f"{len(errors)} blocks, relative error {middle:.2e} in the middle, {top[1]:.2e} at most "
    line += f"({top[0]}); latents: " + ", ".join(
        f"{n} {decibels:.1f} dB" for n, decibels in found.items()
    )
    return {"latents_psnr_db": found, "line": line}


def beside(context: Context, name: str, latents: torch.Tensor) -> dict[str, float]:
    """PSNR against the latents that other steps have left, in decibels; leaves its own."""
    found = {}
    for file in sorted(context.work.glob("latents-*.pt")):
        other = torch.load(file, weights_only=True)
        if other.shape == latents.shape:
            found[file.stem.removeprefix("latents-")] = psnr(other, latents.cpu())
    torch.save(latents.cpu(), context.work / f"latents-{name}.pt")
    return found


def psnr(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Decibels: the range of the expected over the root mean square of the difference."""
    error = float((found - expected).square().mean().sqrt())
    spread = float(expected.max() - expected.min())
    return 20 * math.log10(spread / error) if error else math.inf


def _simulated(context: Context) -> Any:
    """The UNet of the same checkpoint with rounded numbers in its own dtype."""
    from sdxl.backends.torch import simulated
    from sdxl.model.components import torch_dtype
    from sdxl.model.sources import open_source

    config = context.state["config"]
    dtype = torch_dtype(config.precision.unet)
    source = open_source(config.model, config.seed)
    shapes = source.component("unet", dtype, torch.device("meta"))
    made = simulated.restore(shapes, context.state["artifacts"]["unet"], dtype, context.device)
    return made.to(memory_format=torch.channels_last)


def _latents(sampler: Any, unet: Any, indices: list[int]) -> torch.Tensor:
    """A batch denoised by another UNet in the same loop, nothing captured."""
    from sdxl.backends.torch.config import Graphs
    from sdxl.backends.torch.loop import Denoiser
    from sdxl.model.networks import predict

    loop = sampler.stages.loop
    plain = Denoiser(
        lambda *given: predict(unet, *given), sampler.scheduler, loop.steps, loop.guidance,
        sampler.stages.device, Graphs.none,
    )  # fmt: skip
    kept, sampler.stages.denoise = sampler.stages.denoise, plain
    try:
        found: torch.Tensor = sampler.latents(indices).float()
    finally:
        sampler.stages.denoise = kept
    return found


def _blocks(context: Context, sampler: Any, simulated: Any, indices: list[int]) -> dict[str, float]:
    """Relative error in the 2-norm of every executed block on the simulated one's inputs."""
    ours = dict(sampler.stages.modules["unet"].named_modules())
    errors: dict[str, float] = {}
    unlike: dict[str, str] = {}

    def compared(name: str) -> Any:
        def hook(_module: Any, args: Any, named: Any, expected: Any) -> None:
            try:
                found = ours[name](*args, **named)
            except Exception as error:  # a block whose counterpart takes other arguments
                unlike[name] = f"{type(error).__name__}: {str(error)[:200]}"
                return
            wide = expected.double()
            errors[name] = float((found.double() - wide).norm() / wide.norm())

        return hook

    handles = [
        module.register_forward_hook(compared(name), with_kwargs=True)
        for name, module in simulated.named_modules()
        if type(module).__name__ in BLOCKS and name in ours
    ]
    try:
        _one_step(sampler, simulated, indices)
    finally:
        for handle in handles:
            handle.remove()
    if unlike:
        context.note(blocks_not_compared=unlike)
    return errors


def _one_step(sampler: Any, unet: Any, indices: list[int]) -> None:
    import numpy as np

    from sdxl.model.networks import predict

    embeddings = sampler._embeddings(np.asarray(indices))
    noise = sampler._noise(indices).to(embeddings.hidden.device, embeddings.hidden.dtype)
    doubled = noise.repeat(len(embeddings.hidden) // len(noise), 1, 1, 1)
    timestep = sampler.stages.loop.table[0, 0]
    predict(unet, doubled, timestep, embeddings)
