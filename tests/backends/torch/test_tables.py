"""The static loop by tables draws what diffusers' classes draw step by step."""

import diffusers
import pytest
import torch

from sdxl.backends.torch.config import Graphs
from sdxl.backends.torch.tables import TableDenoiser
from sdxl.core.types import Embeddings
from sdxl.model.architecture import SCHEDULER
from sdxl.model.schedulers import CHOICES, Schedule, generators
from sdxl.model.step_table import Table, table_of

CPU = torch.device("cpu")
SEEDS = [11, 12, 13]
TABLES = [
    ("euler", {}), ("euler", {"timestep_spacing": "trailing"}), ("euler_a", {}),
    ("ddim", {}), ("dpmpp_2m", {}), ("dpmpp_2m_karras", {}), ("lcm", {}), ("tcd", {}),
    ("dpmpp_2m", {"algorithm_type": "sde-dpmsolver++"}), ("edm", {}), ("heun", {}),
]  # fmt: skip


def schedule(name, steps=4, eta=0.0, **changes):
    kind, fixed = CHOICES[name]
    own = {} if name == "edm" else SCHEDULER
    made = getattr(diffusers, kind).from_config({**own, **fixed, **changes})
    return Schedule(made, steps, eta)


def unet(sample, timestep, embeddings):
    """Some network: depends on all that it is given, and not linearly."""
    hidden = embeddings.hidden[:, 0, 0].view(-1, 1, 1, 1)
    return torch.tanh(sample.roll(1, dims=-1) + hidden + timestep / 1000)


def by_steps(plan, embeddings, noise, guidance):
    """The sampler's loop, in fp32."""
    walk = plan.begin(CPU, SEEDS)
    latents = noise * walk.start
    for timestep in walk.timesteps:
        doubled = torch.cat([latents] * (len(embeddings.hidden) // len(latents)))
        predicted = unet(walk.scaled(doubled, timestep), timestep, embeddings)
        if len(predicted) > len(latents):
            negative, positive = predicted.chunk(2)
            predicted = negative + guidance * (positive - negative)
        latents = walk.step(predicted, timestep, latents)
    return latents


def given(rows):
    random = torch.Generator().manual_seed(5)
    hidden = torch.randn(rows, 2, 2, generator=random)
    return Embeddings(hidden, torch.zeros(rows, 2), torch.zeros(rows, 6))


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 4, 9])
@pytest.mark.parametrize(("name", "changes"), TABLES)
def test_a_table_draws_as_the_class_does_to_fp32_rounding(name, changes, steps, predicts):
    plan = schedule(name, steps, eta=0.3 if name == "tcd" else 0.0,
                    prediction_type=predicts, **changes)  # fmt: skip
    table = table_of(plan)
    assert isinstance(table, Table), table
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    for rows, guidance in ((3, 1.0), (6, 5.0)):
        ours = TableDenoiser(unet, table, plan.noisy, guidance, CPU, Graphs.none)
        expected = by_steps(plan, given(rows), noise, guidance)
        for _ in range(2):  # buffers are used again, nothing is left in them
            found = ours(given(rows), noise, SEEDS if plan.noisy else ())
            torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)
        alone = TableDenoiser(unet, table, plan.noisy, guidance, CPU, Graphs.none)
        parts = given(rows).hidden, given(rows).pooled, given(rows).time_ids
        one = Embeddings(*(part.view(-1, 3, *part.shape[1:])[:, 1] for part in parts))
        found = alone(one, noise[1:2], SEEDS[1:2] if plan.noisy else ())
        torch.testing.assert_close(found, expected[1:2], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("unipc", {}), ("ddim", {"clip_sample": True}), ("dpmpp_2m", {"solver_order": 3}),
     ("lcm", {"thresholding": True})],
)  # fmt: skip
def test_what_is_no_table_says_so(name, changes):
    assert "is no table of steps" in table_of(schedule(name, 5, **changes))


def test_coefficients_are_those_of_the_papers():
    """DDIM: x' = sqrt(a'/a) x + (sqrt(1 - a') - sqrt(a' (1 - a) / a)) e."""
    plan = schedule("ddim", 4)
    table = table_of(plan)
    alphas = plan.scheduler.alphas_cumprod
    now = alphas[[int(each) for each in plan.timesteps]]
    after = torch.cat([now[1:], plan.scheduler.final_alpha_cumprod.view(1)])
    torch.testing.assert_close(table.a, (after / now).sqrt())
    expected = (1 - after).sqrt() - (after * (1 - now) / now).sqrt()
    torch.testing.assert_close(table.b, expected, rtol=1e-5, atol=1e-6)
    assert not table.c.any() and not table.d.any() and not table.noise.any()


class Recorded:
    """Stands for a captured graph: replays steps of the denoiser that made it."""

    def __init__(self, denoiser, buffers):
        self._run = lambda: denoiser._step(buffers)

    def replay(self):
        self._run()


def test_a_step_needs_nothing_but_its_buffers():
    plan = schedule("tcd", 4, eta=0.5)
    table = table_of(plan)
    plain, ours = (TableDenoiser(unet, table, True, 5.0, CPU, graphs)
                   for graphs in (Graphs.none, Graphs.step))  # fmt: skip

    def capture(buffers):
        buffers.at.zero_()
        ours._step(buffers)  # a warm step: must leave no trace
        buffers.graph = Recorded(ours, buffers)

    ours._capture = capture
    for seeds in (SEEDS, SEEDS[::-1]):
        noise = torch.randn(3, 4, 5, 7)
        assert torch.equal(ours(given(6), noise, seeds), plain(given(6), noise, seeds))
    first = generators(SEEDS[::-1])[0]
    drawn = torch.stack([torch.randn(1, 4, 5, 7, generator=first)[0] for _ in range(4)])
    assert torch.equal(next(iter(ours._buffers.values())).drawn[:, 0], drawn)
