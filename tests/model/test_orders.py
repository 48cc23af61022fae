"""Orders: pictures by words and seed, the same as a measurement's of that prompt and noise."""

import numpy as np
import pytest

from sdxl.backends.torch import BACKEND as TORCH
from sdxl.core.types import Draws, Order, Prompt
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source

SMALL = ("model=tiny_random", "model.height=64", "model.width=64", "model.steps=2", "rules=open")
TEXTS = ("a red cube", "a blue sphere left of a cone", "two cones")


@pytest.fixture(scope="module")
def opened(load):
    """A sampler whose prompts are `TEXTS`; further settings."""

    def make(*words):
        config = load(*SMALL, *words)
        source = open_source(config.model, config.seed)
        prompts = [Prompt(place, text, place) for place, text in enumerate(TEXTS)]
        return Sampler(TORCH.open(config, {}), source, config, prompts)

    return make


def gap(one, other):
    return np.abs(one.astype(int) - other).max()


def test_a_seed_is_the_picture_of_the_prompt_in_that_row(opened):
    sampler = opened("model.noise=per_prompt", "seed=5", "scheduler=euler_a")
    assert isinstance(sampler, Draws)
    measured = sampler.generate([0, 1, 2])
    ordered = sampler.draw([Order(text, 5 + row) for row, text in reversed([*enumerate(TEXTS)])])
    assert gap(measured, ordered[::-1]) <= 1
    assert gap(sampler.draw([Order(TEXTS[0], 5)]), measured[:1]) <= 1, "alone or in a batch"
    assert gap(sampler.draw([Order(TEXTS[0], 99)]), measured[:1]) > 9


def test_orders_may_share_the_latent_of_all(opened):
    sampler = opened("model.noise=shared")
    measured = sampler.generate([0])
    shared, own = sampler.draw([Order(TEXTS[0], 7, shared=True), Order(TEXTS[0], 7)])
    assert gap(shared, measured[0]) <= 1 < gap(own, measured[0])


@pytest.mark.parametrize("usual", ["'blurry, red'", "null"])
def test_each_order_may_have_words_to_lead_away_from(opened, usual):
    sampler = opened("model.noise=per_prompt", f"model.negative_prompt={usual}")
    other = opened("model.noise=per_prompt", "model.negative_prompt='a red cube'")
    measured, theirs = sampler.generate([0]), other.generate([0])
    own, plain = sampler.draw([Order(TEXTS[0], 0, "a red cube"), Order(TEXTS[0], 0)])
    assert gap(own, theirs[0]) <= 1 and gap(plain, measured[0]) <= 1 < gap(own, plain)
    assert gap(sampler.draw([Order(TEXTS[0], 0)])[0], measured[0]) <= 1


def test_prompts_that_are_cut_are_told(opened):
    sampler = opened()
    sampler.draw([Order("cube " * 100, 0), Order("a cube", 0)])
    assert sampler.cut == [0]
