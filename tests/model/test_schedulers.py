"""Every scheduler draws what diffusers' own pipeline draws with it, whatever the batch."""

import numpy as np
import pytest
import torch

from sdxl.backends.torch import BACKEND
from sdxl.model import guidance, prompts, schedulers
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source
from tests.model import folders
from tests.model.folders import SIZE

ENOUGH_DB = 60


def needs(name):
    if name == "dpmpp_sde":
        pytest.importorskip("torchsde", reason="torchsde is not installed")


@pytest.fixture(scope="session")
def opened(load, made):
    """Folder, words -> a sampler; the networks are loaded once for each folder."""
    stages = {}

    def make(folder, *words, count=2):
        config = load(*SIZE, f"model.path={made[folder]}", *words)
        if folder not in stages:
            stages[folder] = BACKEND.open(load(*SIZE, f"model.path={made[folder]}"), {})
        chosen = prompts.load(config.dataset, count, config.seed)
        source = open_source(config.model, config.seed)
        return Sampler(stages[folder], source, config, chosen), config

    return make


@pytest.fixture(scope="session")
def theirs(made):
    """Folder -> diffusers' own pipeline."""
    import diffusers

    known = {}

    def make(folder):
        if folder not in known:
            pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
                made[folder], torch_dtype=torch.float32, add_watermarker=False
            )
            pipe.set_progress_bar_config(disable=True)
            known[folder] = pipe, pipe.scheduler
        pipe, pipe.scheduler = known[folder]
        return pipe

    return make


def drawn_by_diffusers(pipe, sampler, config, scheduler, **words):
    """Their latents on our noise and our seeds."""
    rows = range(len(sampler.rows))
    seeds = [schedulers.seed_of(config.seed, row) for row in rows]
    if hasattr(scheduler, "noise_sampler_seed"):
        scheduler.noise_sampler_seed = seeds
    pipe.scheduler = scheduler
    negative = config.model.negative_prompt
    return pipe(
        prompt=[prompt.text for prompt in prompts.load(config.dataset, len(rows), config.seed)],
        negative_prompt=None if negative is None else [negative] * len(rows),
        num_inference_steps=config.model.steps, guidance_scale=config.model.guidance,
        height=64, width=64, latents=sampler._noise(rows).clone(), output_type="latent",
        generator=schedulers.generators(seeds), **words,
    ).images  # fmt: skip


def db(ours, theirs):
    """PSNR of latents, beside the largest of them."""
    error = float((ours.double() - theirs.double()).square().mean())
    return 10 * np.log10(float(theirs.abs().max()) ** 2 / max(error, 1e-30))


FIXED = {
    "euler": {"use_karras_sigmas": False},
    "ddim": {"clip_sample": False, "set_alpha_to_one": False},
    "edm": {"sigma_min": 0.002, "sigma_max": 80.0},
    "dpmpp_2m_karras": {"use_karras_sigmas": True},
}


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["auto", *schedulers.CHOICES])
def test_each_scheduler_draws_as_diffusers_does(opened, theirs, name, predicts, steps):
    needs(name)
    import diffusers

    sampler, config = opened(predicts, f"scheduler={name}", f"model.steps={steps}")
    pipe = theirs(predicts)
    kind = type(pipe.scheduler) if name == "auto" else getattr(
        diffusers, schedulers.CHOICES[name][0])  # fmt: skip
    scheduler = kind.from_config(pipe.scheduler.config, **FIXED.get(name, {}))
    assert scheduler.config.prediction_type == predicts
    eta = {"eta": sampler.schedule.eta} if name == "tcd" else {}
    expected = drawn_by_diffusers(pipe, sampler, config, scheduler, **eta)
    assert db(sampler.latents(range(2)), expected) > ENOUGH_DB


@pytest.mark.parametrize("folder", ["turbo", "sde", "lcm"])
def test_a_folder_draws_with_its_own_scheduler(opened, theirs, folder):
    sampler, config = opened(folder, "model.steps=4")
    pipe = theirs(folder)
    assert type(sampler.scheduler) is type(pipe.scheduler)
    expected = drawn_by_diffusers(pipe, sampler, config, pipe.scheduler)
    assert db(sampler.latents(range(2)), expected) > ENOUGH_DB


@pytest.mark.parametrize("scale", [1.0, 4.0, 8.0])
def test_a_unet_that_takes_the_guidance_scale_has_one_row_a_picture(opened, theirs, scale):
    sampler, config = opened("lcm", "model.steps=3", f"model.guidance={scale}")
    rows = []
    predict = sampler.stages.unet
    sampler.stages.unet = lambda sample, *rest: (rows.append(len(sample)), predict(sample, *rest))[
        1
    ]
    try:
        ours = sampler.latents(range(2))
    finally:
        del sampler.stages.unet
    assert rows == [2, 2, 2] and sampler.describe()["unet_rows_per_image"] == 1
    pipe = theirs("lcm")
    assert db(ours, drawn_by_diffusers(pipe, sampler, config, pipe.scheduler)) > ENOUGH_DB
    length = folders.WIDTH
    known = pipe.get_guidance_scale_embedding(torch.tensor([scale - 1]), embedding_dim=length)
    assert torch.equal(guidance.embedding(scale, length), known[0])


def test_the_static_loop_feeds_the_guidance_scale_too(opened, load, made):
    shared, _ = opened("lcm", "model.steps=3")
    words = [word for word in SIZE if "loop" not in word]
    config = load(*words, f"model.path={made['lcm']}", "model.steps=3")
    stages = BACKEND.open(config, {})
    assert stages.describe()["loop"]["steps"] == "a table of coefficients"
    chosen = prompts.load(config.dataset, 2, config.seed)
    ours = Sampler(stages, open_source(config.model, config.seed), config, chosen)
    assert db(ours.latents(range(2)), shared.latents(range(2))) > 100
    assert ours.describe()["unet_rows_per_image"] == 1


@pytest.mark.parametrize("folder", ["epsilon", "zeros"])
def test_no_negative_prompt_is_diffusers_own_way(opened, theirs, folder):
    sampler, config = opened(folder, "model.steps=2", "model.negative_prompt=null")
    assert sampler.zeros is (folder == "zeros")
    pipe = theirs(folder)
    expected = drawn_by_diffusers(pipe, sampler, config, pipe.scheduler)
    assert db(sampler.latents(range(2)), expected) > ENOUGH_DB


@pytest.mark.parametrize("name", ["euler_a", "dpmpp_sde", "lcm", "tcd", "unipc", "heun", "edm"])
def test_a_picture_is_the_same_alone_and_in_a_batch_of_8(opened, name):
    needs(name)
    sampler, _ = opened("epsilon", f"scheduler={name}", "model.steps=3", count=8)
    whole = sampler.generate(range(8)).astype(int)
    alone = sampler.generate([5]).astype(int)
    assert np.abs(alone[0] - whole[5]).max() <= 1
    assert np.abs(whole[4] - whole[5]).max() > 8
    again = sampler.generate([7, 5]).astype(int)
    assert np.abs(again - whole[[7, 5]]).max() <= 1, "nothing is left of the batches before"


def test_step_noise_follows_the_seed_and_the_row_and_is_not_the_first_latents():
    seeds = {schedulers.seed_of(seed, row) for seed in range(4) for row in range(50)}
    assert len(seeds) == 200 and not seeds & set(range(100))


def test_schedulers_of_second_order_call_the_unet_twice_a_step(opened):
    assert opened("epsilon", "scheduler=heun", "model.steps=4")[0].schedule.calls == 7
    assert opened("epsilon", "scheduler=euler", "model.steps=4")[0].schedule.calls == 4


def test_a_preset_that_does_not_go_with_the_weights_is_a_warning_that_names_both(opened):
    warned = opened("epsilon", "+preset=lightning_4")[0].describe()["warnings"]
    assert warned == ["preset=lightning_4 draws with timestep_spacing trailing; the weights' own "
                      "scheduler_config.json says leading"]  # fmt: skip
    assert not opened("turbo", "+preset=turbo")[0].warnings
    assert not opened("lcm", "+preset=lcm_4")[0].warnings
    warned = opened("epsilon", "+preset=lcm_4")[0].warnings
    assert "LCMScheduler" in warned[0] and "time_cond_proj_dim" in warned[1]
    velocity = opened("v_prediction", "scheduler=euler", "scheduler.prediction_type=epsilon")[0]
    assert "prediction_type epsilon" in velocity.warnings[0]
    assert "v_prediction" in velocity.warnings[0]
    assert not opened("v_prediction")[0].warnings
