"""`quality=fast`: what its scores say of pictures that are right, mixed up or spoilt."""

import numpy as np
import pytest

from sdxl.core.paths import BUNDLED
from sdxl.model import prompts
from sdxl.model.scenes import captions, render, world
from sdxl.quality import efficientnet, fast, fast_scorer

COUNT = 48

pytestmark = pytest.mark.skipif(
    not (BUNDLED / "judge").is_dir(), reason="no bundled model in sdxl/assets/scenes"
)


@pytest.fixture(scope="module")
def config(load):
    return load("model=scenes", "dataset=scenes", "quality=fast", f"limit={COUNT}")


@pytest.fixture(scope="module")
def asked(config):
    return prompts.load(config.dataset, config.limit)


@pytest.fixture(scope="module")
def real():
    """Renders of the very scenes that the captions describe."""
    return render.render(world.held_out_scene(0, n) for n in range(COUNT))


@pytest.fixture(scope="module")
def scored(config, asked):
    """Pictures -> metrics, and what unrelated captions would score."""

    def score(pictures):
        scorer = fast_scorer.Scenes(config, asked)
        for start in range(0, COUNT, 16):
            scorer.add(range(start, start + 16), pictures[start : start + 16])
        return scorer.metrics() | {"unrelated": scorer.unrelated()}

    return score


@pytest.fixture(scope="module")
def right(scored, real):
    return scored(real)


def test_prompts_are_the_captions_of_held_out_scenes(asked):
    assert [p.text for p in asked] == [c.text for c in captions.held_out(COUNT)]
    assert all(world.held_out_scene(0, n).held_out for n in range(COUNT))


def test_real_pictures_are_nearly_always_what_was_asked(right):
    assert right["attribute_1_accuracy"] >= 0.85
    assert right["attribute_accuracy"] >= 0.6


def test_shuffled_captions_drop_alignment_and_accuracy_but_not_the_distance(scored, real, right):
    shuffled = scored(np.roll(real, 1, axis=0))
    assert shuffled["clip_scenes"] < right["clip_scenes"] - 10
    assert shuffled["attribute_accuracy"] < 0.1
    assert shuffled["fid_scenes"] == pytest.approx(right["fid_scenes"], rel=1e-6)
    assert right["unrelated"] < right["clip_scenes"] - 10


def test_the_distance_grows_with_noise(scored, real, right):
    noise = np.random.default_rng(0).normal(size=real.shape)
    spoilt = [
        scored((real + strength * noise).clip(0, 255).astype(np.uint8)) for strength in (20, 60)
    ]
    distances = [right["fid_scenes"], *(each["fid_scenes"] for each in spoilt)]
    assert distances == sorted(distances)
    assert distances[2] > 2 * distances[0]
    assert spoilt[1]["attribute_accuracy"] < right["attribute_accuracy"]


def test_the_scorer_says_it_is_not_official(config, asked, real, monkeypatch):
    monkeypatch.setattr(efficientnet, "installed", lambda: False)
    scorer = fast.OPTION.open(config, asked)
    scorer.add(range(16), real[:16])
    found = scorer.result()
    assert found["comparable"] is False and "not the official" in found["comparable_reason"]
    assert {"clip_scenes", "fid_scenes", "attribute_accuracy"} <= set(found["metrics"])
    assert not any("efficientnet" in name for name in found["metrics"])


def test_the_kernel_distance_is_zero_for_one_distribution_and_grows_with_a_shift():
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 400, 16))
    assert abs(fast_scorer.kernel_distance(one, other)) < 0.1
    assert fast_scorer.kernel_distance(one, other + 0.5) > 0.2


@pytest.mark.skipif(not efficientnet.installed(), reason="the extra `judge` is not installed")
def test_the_independent_judge_sees_noise(real):
    network = efficientnet.load()
    reference = efficientnet.features(network, real[:24])
    judge = fast_scorer.Judge(reference)
    noise = np.random.default_rng(0).normal(0, 40, real.shape)
    spoilt = fast_scorer.Judge(reference)
    judge.add(range(24), real[24:])
    spoilt.add(range(24), (real + noise).clip(0, 255).astype(np.uint8)[24:])
    clean, noisy = judge.metrics(), spoilt.metrics()
    assert noisy["fd_efficientnet"] > 1.5 * clean["fd_efficientnet"]
    assert noisy["kid_efficientnet"] > clean["kid_efficientnet"]
    floor = judge.floor()
    assert floor.keys() == clean.keys()
    assert floor["fd_efficientnet"] < noisy["fd_efficientnet"]


def test_the_perceptual_distance_is_zero_for_equal_pictures_and_grows(real, config):
    random = np.random.default_rng(0)
    noise = random.normal(size=real[:16].shape)
    noisy = [
        (real[:16] + strength * noise).clip(0, 255).astype(np.uint8) for strength in (0, 5, 25)
    ]
    near = [
        fast.beside_baseline(config, list(real[:16]), list(each))["perceptual_scenes"]
        for each in (*noisy, np.roll(real[:16], 1, axis=0))
    ]
    assert near[0] == pytest.approx(0, abs=1e-9)  # a convolution may sum in another order
    assert near == sorted(near)
    assert near[2] > 3 * near[1] > 0


def test_only_scenes_have_a_perceptual_distance(load, real):
    assert fast.beside_baseline(load("quality=fast"), [real[0]], [real[0]]) == {}
