"""A student of few steps: its teacher's path is the sampler's, its leap Euler's."""

import dataclasses

import numpy as np
import pytest
import torch

from sdxl.config import rules_train
from sdxl.config.content_key import plain
from sdxl.config.load import load as checked
from sdxl.core.errors import ConfigError, UserError
from sdxl.core.types import Embeddings, Prompt
from sdxl.model.sampler import Sampler
from sdxl.model.sources import open_source
from sdxl.training import loop
from sdxl.training.data import trajectories
from sdxl.training.stages import distill

SMALL = (
    "train=distill", "model=tiny_random", "model.height=64", "model.width=64", "model.guidance=3",
    "train.scenes=72", "train.student_steps=2", "train.teacher_steps=4", "train.batch=4",
    "train.steps=4", "train.warmup_steps=1", "train.compile=false", "train.arithmetic=fp32",
    "tracking=off",
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world_of(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def config(composed, world_of, monkeypatch):
    monkeypatch.setenv("SDXL_STORE", str(world_of))
    return lambda *words: checked(composed(*SMALL, *words, name="train"))


def test_the_teachers_path_ends_where_the_sampler_does(config, load, monkeypatch):
    given = config()
    paths = trajectories.open_trajectories(given)
    assert paths.count == 72 and len(paths.sigmas) == 3 and paths.sigmas[-1] == 0
    rows = np.array([5, 0])
    stops = paths.rows("stops", rows)
    assert stops.shape == (2, 3, 4, 8, 8)

    texts = trajectories._texts(given)
    drawing = load("model=tiny_random", "model.height=64", "model.width=64", "model.guidance=3",
                   "model.steps=4", "scheduler=euler", "scheduler.spacing=trailing",
                   "rules=open")  # fmt: skip
    from sdxl.backends import torch as backend

    prompts = [Prompt(at, texts[row], row) for at, row in enumerate(rows.tolist())]
    stages = backend.BACKEND.open(drawing, {})
    sampler = Sampler(stages, open_source(drawing.model, 0), drawing, prompts)
    noise = torch.stack([trajectories.noise_of(0, row, (4, 8, 8)) for row in rows.tolist()])
    monkeypatch.setattr(sampler, "_noise", lambda indices: noise[list(indices)])
    latents = sampler.latents([0, 1])
    assert torch.allclose(latents, stops[:, -1], atol=2e-2, rtol=2e-3)  # stops are kept in fp16


def test_a_leap_is_one_step_of_euler(config):
    given = config()
    source = open_source(given.model, 0)
    unet = source.component("unet", torch.float32, CPU)
    scheduler = trajectories.scheduler_of(source, 2)
    shapes = source.configs["unet"]
    wide = shapes["projection_class_embeddings_input_dim"] - 6 * shapes["addition_time_embed_dim"]
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator) * scheduler.init_noise_sigma
    told = Embeddings(
        torch.randn(2, 77, shapes["cross_attention_dim"], generator=generator),
        torch.randn(2, wide, generator=generator), torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2),
    )  # fmt: skip
    timestep = scheduler.timesteps[0]
    sigmas = scheduler.sigmas[:2].expand(2, 2)
    with torch.no_grad():
        ours = distill.leap(unet, latents, sigmas, timestep.repeat(2), told)
        given_to = scheduler.scale_model_input(latents, timestep)
        predicted = distill.predict(unet, given_to, timestep, told)
        theirs = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


def silent(*_):
    pass


def test_a_training_learns_and_resumes_to_the_bit(config, tmp_path):
    given = config("train.steps=8", "train.lr=0.0001")
    settings = given.train

    def trained(folder, *lengths):
        for steps in lengths:
            stage = distill.Stage(given)
            asked = dataclasses.replace(settings, steps=steps, decay_share=0.0)
            figures = loop.train(stage, asked, 0, folder, silent, stage.identity)
        return figures, stage.module

    whole, one = trained(tmp_path / "whole", 8)
    parts, other = trained(tmp_path / "parts", 3, 8)
    assert whole["loss"] == parts["loss"] and parts["resumed_at"] == 3
    weights = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    assert all(torch.equal(mine, theirs) for (_, mine), theirs in weights)

    before = distill.Stage(given).evaluate(CPU)[0]["distance"]
    assert whole["distance"] < before
    exported = tmp_path / "whole" / "model"
    assert (exported / "config.json").is_file() and list(exported.glob("*.safetensors"))


def test_what_cannot_be_distilled_is_refused(config, tmp_path):
    with pytest.raises(UserError, match="shared out"):
        distill.folder_of(config("train.teacher_steps=5"))
    with pytest.raises((UserError, ConfigError), match="quant"):
        distill.folder_of(config("quant=int8"))
    with pytest.raises(UserError, match="captions"):
        distill.Stage(config(f"train.captions={tmp_path / 'none.txt'}"))


def test_captions_come_from_a_file(config, tmp_path):
    file = tmp_path / "captions.txt"
    lines = [f"{n} red cubes" for n in range(80)]  # more than train.scenes
    file.write_text("\n\n".join(lines))
    given = config(f"train.captions={file}")
    assert trajectories._texts(given) == lines
    problems = rules_train.problems_of(given.train, ["train.scenes=72"])
    assert ["`train.scenes` would be ignored" in problem.what for problem in problems] == [True]
    assert not rules_train.problems_of(config().train, ["train.scenes=72"])
    typed = ["train=distill", f"train.captions={file}", "train.scenes=80"]
    problem = rules_train.problems_of(given.train, typed)[0]
    assert problem.fix == f"python train.py train=distill train.captions={file}"
    written = plain(dataclasses.replace(given.train, scenes=80))  # by a checkpoint of before
    left_out = loop.fixed(given.train, 0, {})
    assert "scenes" not in left_out and left_out.items() <= {**written, "seed": 0}.items()
    assert loop.fixed(config().train, 0, {})["scenes"] == 72


def test_a_teacher_of_another_schedule_draws_anew(config, tmp_path, monkeypatch):
    from diffusers import EulerDiscreteScheduler

    monkeypatch.setenv("SDXL_STORE", str(tmp_path))
    given, drawn, write = config(), [], trajectories._Teacher.write
    monkeypatch.setattr(
        trajectories._Teacher, "write", lambda *of: (drawn.append(of[2]), write(*of))
    )
    source = open_source(given.model, 0)
    usual = {**source.scheduler().config}

    def become(**changes):
        other = EulerDiscreteScheduler.from_config(usual, **changes)
        monkeypatch.setattr(type(source), "scheduler", lambda _: other)
        return trajectories._schedule(source)

    assert become(timestep_spacing="linspace", clip_sample=False, steps_offset=0) == {}
    assert become(beta_end=0.02) == {"beta_end": 0.02}
    with monkeypatch.context() as before:  # keys told nothing of the schedule
        before.setattr(trajectories, "_schedule", lambda _: {})
        old = trajectories.open_trajectories(given)
    new = trajectories.open_trajectories(given)
    assert drawn == [0], "paths of this very schedule are taken over"
    assert new.identity == old.identity and new.schedule == {"beta_end": 0.02}
    rows = np.arange(72)
    assert torch.equal(new.rows("stops", rows), old.rows("stops", rows))
    become(beta_end=0.02, use_karras_sigmas=True)
    other = trajectories.open_trajectories(given)
    assert drawn == [0, 0], "those of another one are not"
    assert not torch.equal(other.rows("stops", rows), old.rows("stops", rows))
    assert distill.Stage(given).identity["schedule"] == other.schedule
