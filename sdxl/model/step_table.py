"""Schedulers as tables of coefficients: a loop without the scheduler's code.

A step that is linear in the latents x, in what the UNet predicts e and in noise z, and that looks
back one step at most, is

    x' = a x + b e + (c x_before + d e_before) + n z.

The numbers come from diffusers' own class: it is run once on unit vectors. Then it is run on random
ones, and only a table that does the same is used: clipping, a longer memory or noise of another
kind show themselves there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sdxl.model.schedulers import Schedule, generators

Tensor = torch.Tensor
_KINDS = 4
"""Unit vectors of a step: the latents, what is predicted, and both of the step before."""
_LOUD = 4.0
"""Of the random vectors: large enough that a clipped picture differs."""
_NEAR = 1e-5
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Table:
    """One row a step; all of (N,) but `start`, which scales the first noise.

    scale: of the latents as the UNet sees them; at: timestep; a, b, c, d, noise: see above, c and d
    of the step after, so that a step leaves behind what the next one wants.
    """

    start: float
    at: Tensor
    scale: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    noise: Tensor

    def rows(self) -> Tensor:
        """(N, 7) in fp32: timestep, scale of the next input, a, b, c, d, noise."""
        after = torch.cat([self.scale[1:], self.scale[-1:]])
        columns = [self.at, after, self.a, self.b, self.c, self.d, self.noise]
        return torch.stack(columns, dim=1).float()


def table_of(schedule: Schedule) -> Table | str:
    """The scheduler's table, or why it has none."""
    name = type(schedule.scheduler).__name__
    if schedule.noisy and not schedule.seeded:
        return f"{name} draws its noise along a path of its own"
    found = _probed(schedule)
    return found if _equal(schedule, found) else f"{name} is no table of steps"


def _probed(schedule: Schedule) -> Table:
    """Coefficients by unit vectors: lane (i, k) is 1 at step i (or i - 1), and 0 elsewhere."""
    calls = schedule.calls
    walk, noise = schedule.begin(_CPU, [0]), generators([0])[0]
    kind = torch.arange(_KINDS * calls + 1) % _KINDS
    step = torch.arange(_KINDS * calls + 1) // _KINDS  # the last lane belongs to no step
    shape = (1, 1, 1, len(step))
    scales, rows = [], []
    for number, timestep in enumerate(walk.timesteps):
        now = step - (kind > 1).long() == number  # the latter two kinds are of the step before
        latents = (now & (kind % 2 == 0)).float().view(shape)
        predicted = (now & (kind % 2 == 1)).float().view(shape)
        latents[..., -1] = predicted[..., -1] = 0
        scales.append(float(walk.scaled(torch.ones(shape), timestep).flatten()[0]))
        moved = walk.step(predicted, timestep, latents).flatten()
        drawn = torch.randn(shape, generator=noise).flatten() if schedule.noisy else moved * 0
        share = moved[-1] / drawn[-1] if schedule.noisy else torch.zeros(())
        lanes = (moved - share * drawn)[_KINDS * number : _KINDS * (number + 1)]
        rows.append(torch.cat([lanes, share.reshape(1)]))
    a, b, c, d, z = torch.stack(rows).unbind(1)
    c, d = (torch.cat([each[1:], torch.zeros(1)]) for each in (c, d))
    timesteps = torch.tensor(schedule.timesteps)
    return Table(float(walk.start), timesteps, torch.tensor(scales), a, b, c, d, z)


def _equal(schedule: Schedule, table: Table) -> bool:
    """Whether both move random latents under random predictions to the same end."""
    random = torch.Generator().manual_seed(1)
    walk, noise = schedule.begin(_CPU, [0]), generators([0])[0]
    shape = (1, 4, 4, 4)
    latents = ours = _LOUD * float(walk.start) * torch.randn(shape, generator=random)
    carried = torch.zeros(shape)
    for number, timestep in enumerate(walk.timesteps):
        walk.scaled(latents, timestep)
        predicted = _LOUD * torch.randn(shape, generator=random)
        latents = walk.step(predicted, timestep, latents)
        drawn = torch.randn(shape, generator=noise) if schedule.noisy else carried * 0
        ours, carried = moved(table.rows()[number, 2:], ours, predicted, carried, drawn)
        if not torch.allclose(ours, latents, rtol=_NEAR, atol=_NEAR * float(latents.abs().max())):
            return False
    return True


def moved(
    row: Tensor, latents: Tensor, predicted: Tensor, carried: Tensor, drawn: Tensor | float
) -> tuple[Tensor, Tensor]:
    """The next latents, and what the step after looks back to."""
    a, b, c, d, noise = row.unbind()
    return a * latents + b * predicted + carried + noise * drawn, c * latents + d * predicted
