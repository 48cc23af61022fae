"""The whole denoise loop on the device: buffers that stay, and no word from the host in between.

Timesteps and sigmas lie in a table on the device and a counter there says which row is next, so a
step is the same work every time: one captured CUDA graph serves all of them. Latents stay in fp32
between the steps; the sampler's own loop rounds them to the UNet's dtype after each.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sdxl.backends.torch.config import Graphs
from sdxl.backends.torch.kernels import reference
from sdxl.config.shortcuts import Step
from sdxl.core.types import Embeddings
from sdxl.model.parts import Kept, positive
from sdxl.model.schedulers import Schedule

Tensor = torch.Tensor
Unet = Callable[[Tensor, Tensor, Embeddings], Tensor]
Part = Callable[[Step, Tensor, Tensor, Embeddings, Kept], Tensor]

WARM_STEPS = 3
"""Before a capture: kernels are chosen, tuned and compiled, and libraries take their workspaces."""


def guided(predicted: Tensor, images: int, guidance: float) -> Tensor:
    """What the UNet predicts for `images` pictures, of one row each or of two with guidance."""
    if len(predicted) == images:
        return predicted
    negative, positive = predicted.chunk(2)
    return negative + guidance * (positive - negative)


@dataclass(frozen=True)
class Short:
    """A shortcut: what each UNet call computes, and who computes parts."""

    steps: Sequence[Step]
    part: Part


@dataclass
class _Buffers:
    """What one batch shape keeps: latents (B, 4, h, w) fp32, the UNet's input, the conditioning."""

    latents: Tensor
    scaled: Tensor
    embeddings: Embeddings
    at: Tensor  # (1,) int64: the next row of the table
    graph: Any = None
    graphs: dict[Step, Any] = field(default_factory=dict)  # under a shortcut: one a kind of step
    kept: Kept = field(default_factory=Kept)
    carried: Tensor | None = None  # fp32, as latents: what a step leaves for the next
    drawn: Tensor | None = None  # (steps, B, 4, h, w): noise of the steps


class Denoiser:
    """Noise to latents in `steps` Euler steps with guidance."""

    def __init__(
        self, unet: Unet, scheduler: Any, steps: int, guidance: float,
        device: torch.device, graphs: Graphs, short: Short | None = None,
    ) -> None:  # fmt: skip
        assert scheduler.config.prediction_type == "epsilon", scheduler.config.prediction_type
        scheduler = copy.deepcopy(scheduler)
        scheduler.set_timesteps(steps)
        sigmas = scheduler.sigmas.float()
        rows = (scheduler.timesteps.float(), sigmas[:-1], sigmas[1:])
        self.table = torch.stack(rows, dim=1).to(device)
        self.start = float(scheduler.init_noise_sigma)
        self._prepare(unet, steps, guidance, graphs, short)
        self.euler, self._advance = _euler(device)

    def _prepare(
        self, unet: Unet, steps: int, guidance: float, graphs: Graphs, short: Short | None
    ) -> None:
        """What every static loop has, whatever its step."""
        self.unet, self.steps, self.guidance, self.graphs = unet, steps, guidance, graphs
        self.short = short
        self.order: Sequence[Step | None] = short.steps if short else [None] * steps
        self.euler = ""
        self._buffers: dict[tuple[Any, ...], _Buffers] = {}
        self._pool: Any = None
        self.captured: list[dict[str, Any]] = []

    @torch.inference_mode()
    def __call__(self, embeddings: Embeddings, noise: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        """Latents (B, 4, h, w) in the embeddings' dtype, for noise of unit variance.

        `seeds`: of each picture's noise in the steps, where the scheduler adds any.
        """
        buffers = self._for(embeddings, noise)
        self._fill(buffers, embeddings, noise, seeds)
        if self.graphs is Graphs.none:
            for step in self.order:
                self._step(buffers, step)
        else:
            if buffers.graph is None:
                self._capture(buffers)
                self._fill(buffers, embeddings, noise, seeds)  # the warm steps have moved it
            for step in self.order if self.graphs is Graphs.step else [None]:
                (buffers.graphs[step] if step else buffers.graph).replay()
        return buffers.latents.to(embeddings.hidden.dtype, copy=True)

    def describe(self) -> dict[str, Any]:
        """For the record: the loop's kind, its Euler kernel, the graphs captured with seconds."""
        return {
            "kind": "static",
            "graphs": self.graphs.value,
            "euler": self.euler,
            "captured": self.captured,
        }

    def _for(self, embeddings: Embeddings, noise: Tensor) -> _Buffers:
        key = (tuple(noise.shape), tuple(embeddings.hidden.shape), embeddings.hidden.dtype)
        if key not in self._buffers:
            rows = (len(embeddings.hidden), *noise.shape[1:])
            device = noise.device
            self._buffers[key] = _Buffers(
                torch.empty(noise.shape, dtype=torch.float32, device=device),
                torch.empty(rows, dtype=embeddings.hidden.dtype, device=device),
                Embeddings(
                    *(
                        part
                        if part is None
                        else torch.empty_like(part, memory_format=torch.contiguous_format)
                        for part in vars(embeddings).values()
                    )
                ),
                torch.zeros(1, dtype=torch.int64, device=device),
            )
        return self._buffers[key]

    def _condition(self, buffers: _Buffers, embeddings: Embeddings) -> None:
        """A new batch's conditioning into the buffers, at the first step."""
        for kept, given in zip(
            vars(buffers.embeddings).values(), vars(embeddings).values(), strict=True
        ):
            if kept is not None:
                kept.copy_(given)
        buffers.at.zero_()

    def _fill(
        self, buffers: _Buffers, embeddings: Embeddings, noise: Tensor, _seeds: Sequence[int]
    ) -> None:
        """A new batch into the buffers; everything stays on the device's queue."""
        self._condition(buffers, embeddings)
        buffers.latents.copy_(noise).mul_(self.start)
        sigma = self.table[0, 1]
        given = (buffers.latents / (sigma * sigma + 1).sqrt()).to(buffers.scaled.dtype)
        buffers.scaled.view(-1, *noise.shape).copy_(given)

    def _step(self, buffers: _Buffers, step: Step | None = None) -> None:
        """One step; `step`: what it computes under a shortcut."""
        timestep, sigma, sigma_next = self.table.index_select(0, buffers.at)[0].unbind()
        predicted = self._predicted(buffers, timestep, step)
        scaled = buffers.scaled[-len(predicted) :]
        self._advance(buffers.latents, predicted, self.guidance, sigma, sigma_next, scaled)
        if len(scaled) < len(buffers.scaled):
            buffers.scaled[: len(scaled)].copy_(scaled)
        buffers.at.add_(1)

    def _predicted(self, buffers: _Buffers, timestep: Tensor, step: Step | None) -> Tensor:
        """What the UNet makes of the buffers, of the conditional rows alone without guidance."""
        if not (self.short and step):
            return self.unet(buffers.scaled, timestep, buffers.embeddings)
        given, embeddings = buffers.scaled, buffers.embeddings
        if not step.guided:
            images = len(buffers.latents)
            given, embeddings = given[-images:], positive(embeddings, images)
        return self.short.part(step, given, timestep, embeddings, buffers.kept)

    def _capture(self, buffers: _Buffers) -> None:
        """One step of each kind, or all of them, as a CUDA graph; graphs share a pool of memory."""
        began = time.perf_counter()
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        kinds = list(dict.fromkeys(self.order))
        with torch.cuda.stream(aside):
            for step in kinds:
                for _ in range(WARM_STEPS):
                    buffers.at.zero_()
                    self._step(buffers, step)
        here.wait_stream(aside)
        torch.cuda.synchronize()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        whole = self.graphs is not Graphs.step
        for kind in [None] if whole else kinds:
            buffers.graph = torch.cuda.CUDAGraph()
            # Other threads may talk to CUDA meanwhile: a picture on its way to the host.
            with torch.cuda.graph(
                buffers.graph, pool=self._pool, capture_error_mode="thread_local"
            ):
                for step in self.order if whole else [kind]:
                    self._step(buffers, step)
            if kind:
                buffers.graphs[kind] = buffers.graph
        seconds = round(time.perf_counter() - began, 3)
        self.captured.append({"batch": len(buffers.latents), "seconds": seconds})


def _euler(device: torch.device) -> tuple[str, Callable[..., None]]:
    """The Euler step with guidance: one Triton kernel on CUDA, plain operations elsewhere."""
    if device.type == "cuda":
        try:
            from sdxl.backends.torch.kernels.euler import euler_step
        except ImportError:  # no Triton
            pass
        else:
            return "triton", euler_step
    return "torch", plain_step


def plain_step(
    latents: Tensor, predicted: Tensor, guidance: float,
    sigma: Tensor, sigma_next: Tensor, scaled: Tensor,
) -> None:  # fmt: skip
    """`sdxl.backends.torch.kernels.euler.euler_step` without Triton."""
    moved, given = reference.euler_step(latents, predicted, guidance, sigma, sigma_next)
    latents.copy_(moved)
    scaled.copy_(given)


class Pipeline:
    """diffusers' own pipeline in place of the loop: what everything else is compared with."""

    def __init__(self, modules: dict[str, Any], schedule: Schedule, guidance: float) -> None:
        from diffusers import StableDiffusionXLPipeline

        found: Any = StableDiffusionXLPipeline(
            **modules,
            tokenizer=None,
            tokenizer_2=None,
            scheduler=schedule.scheduler,
            add_watermarker=False,
        )
        found.set_progress_bar_config(disable=True)
        self.pipeline, self.schedule, self.guidance = found, schedule, guidance

    @torch.inference_mode()
    def __call__(self, embeddings: Embeddings, noise: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        """Latents (B, 4, h, w) for noise of unit variance."""
        guided = len(embeddings.hidden) != len(noise)
        hidden, pooled = embeddings.hidden, embeddings.pooled
        negative: dict[str, Tensor] = {}
        if guided:
            negative["negative_prompt_embeds"], hidden = hidden.chunk(2)
            negative["negative_pooled_prompt_embeds"], pooled = pooled.chunk(2)
        height, width = (int(pixels) for pixels in embeddings.time_ids[0, :2].tolist())
        walk = self.schedule.begin(noise.device, seeds)
        self.pipeline.scheduler = walk.scheduler
        return self.pipeline(
            prompt_embeds=hidden, pooled_prompt_embeds=pooled, **negative,
            num_inference_steps=self.schedule.steps, guidance_scale=self.guidance,
            height=height, width=width, latents=noise, output_type="latent", **walk.words,
        ).images  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """For the record."""
        return {"kind": "pipeline", "graphs": "none"}
