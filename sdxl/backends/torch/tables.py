"""The loop with buffers that stay, for schedulers that are tables of coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sdxl.backends.torch.config import Graphs
from sdxl.backends.torch.loop import Denoiser, Short, Unet, guided
from sdxl.config.shortcuts import Step
from sdxl.core.types import Embeddings
from sdxl.model.schedulers import generators
from sdxl.model.step_table import Table, moved


class TableDenoiser(Denoiser):
    """Noise to latents by the rows of a table, with guidance; one step is the same work always."""

    def __init__(
        self, unet: Unet, table: Table, noisy: bool, guidance: float, device: torch.device,
        graphs: Graphs, short: Short | None = None,
    ) -> None:  # fmt: skip
        self._prepare(unet, len(table.at), guidance, graphs, short)
        self.table, self.start = table.rows().to(device), table.start
        self.first, self.noisy = float(table.scale[0]), noisy

    def describe(self) -> dict[str, Any]:
        """For the record."""
        return {**super().describe(), "euler": None, "steps": "a table of coefficients"}

    def _fill(
        self, buffers: Any, embeddings: Embeddings, noise: torch.Tensor, seeds: Sequence[int]
    ) -> None:
        self._condition(buffers, embeddings)
        buffers.latents.copy_(noise).mul_(self.start)
        given = (buffers.latents * self.first).to(buffers.scaled.dtype)
        buffers.scaled.view(-1, *noise.shape).copy_(given)
        if buffers.carried is None:
            buffers.carried = torch.empty_like(buffers.latents)
            shape = (self.steps, *buffers.latents.shape)
            buffers.drawn = torch.zeros(shape, device=noise.device) if self.noisy else None
        buffers.carried.zero_()
        if self.noisy:
            assert len(seeds) == len(noise), "a seed for each picture"
            for place, generator in enumerate(generators(seeds)):
                for step in range(self.steps):
                    drawn = torch.randn((1, *noise.shape[1:]), generator=generator)
                    buffers.drawn[step, place].copy_(drawn[0])

    def _step(self, buffers: Any, step: Step | None = None) -> None:
        row = self.table.index_select(0, buffers.at)[0]
        predicted = self._predicted(buffers, row[0], step)
        drawn = buffers.drawn.index_select(0, buffers.at)[0] if self.noisy else 0.0
        whole = guided(predicted.float(), len(buffers.latents), self.guidance)
        latents, later = moved(row[2:], buffers.latents, whole, buffers.carried, drawn)
        buffers.latents.copy_(latents)
        buffers.carried.copy_(later)
        given = (latents * row[1]).to(buffers.scaled.dtype)
        buffers.scaled.view(-1, *latents.shape).copy_(given)
        buffers.at.add_(1)
