"""UNet and text encoders together: what learns, what is shown."""

import numpy as np
import pytest
import torch

from sdxl.config.schema.train import Noising
from sdxl.core.errors import UserError
from sdxl.model import architecture
from sdxl.model.scenes import world
from sdxl.training import loop
from sdxl.training.data import scene_data
from sdxl.training.loop import Batch
from sdxl.training.stages import clip, unet
from sdxl.training.stages.denoising import Denoiser

RUN = "little"
CPU = torch.device("cpu")


def settings(**changes):
    base = {"name": "unet", "run": RUN, "scenes": 24, "steps": 4, "batch": 4, "warmup_steps": 1}
    return Noising(**{**base, "evaluate_every": 10**9, **changes})


@pytest.fixture
def stages(monkeypatch):
    """Random networks where the stages before this one leave theirs."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    first, second = clip.text_networks()
    folder = scene_data.stage_folder(RUN, "clip") / "model"
    first.save_pretrained(folder / "text_encoder")
    second.save_pretrained(folder / "text_encoder_2")
    for tokenizer, name in zip(
        scene_data.learnt_tokenizers(), ("tokenizer", "tokenizer_2"), strict=True
    ):
        tokenizer.save_pretrained(folder / name)
    vae = AutoencoderKL(**architecture.SCENES["vae"])
    vae.save_pretrained(scene_data.stage_folder(RUN, "vae") / "model")
    monkeypatch.setattr(unet.Stage, "evaluate", lambda *_: ({}, None))


def losses(folder, **changes):
    seen = {}
    stage = unet.Stage(settings(), 0)
    loop.train(stage, settings(**changes), 0, folder, lambda k, n, f, _: seen.setdefault((k, n), f))
    return {n: f["loss"] for (kind, n), f in seen.items() if kind == "step"}, stage


def test_it_goes_on_to_the_bit_and_both_halves_have_learnt(stages, tmp_path):
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    whole, _ = losses(tmp_path / "whole")
    half, _ = losses(tmp_path / "parts", steps=2)
    rest, _ = losses(tmp_path / "parts")
    assert {**half, **rest} == whole and len(whole) == 4
    folder = tmp_path / "whole" / "model"
    before = scene_data.text_encoders(RUN)
    after = (
        CLIPTextModel.from_pretrained(folder / "text_encoder"),
        CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
    )
    for old, new, last_learns in zip(before, after, (False, True), strict=True):
        changed = {
            name
            for (name, a), b in zip(old.named_parameters(), new.parameters(), strict=True)
            if not torch.equal(a, b)
        }
        assert any("layers.0.self_attn" in name for name in changed)
        assert any("layers.2." in name for name in changed) == last_learns


def test_on_another_vae_it_does_not_go_on(stages, tmp_path):
    from diffusers import AutoencoderKL

    def train(steps):
        stage = unet.Stage(settings(), 0)
        loop.train(stage, settings(steps=steps), 0, tmp_path, lambda *_: None, stage.identity)

    train(1)
    torch.manual_seed(1)
    vae = AutoencoderKL(**architecture.SCENES["vae"])
    vae.save_pretrained(scene_data.stage_folder(RUN, "vae") / "model")
    with pytest.raises(UserError, match="other settings: vae"):
        train(2)


def test_pairs_come_oftener_and_words_change(stages):
    stage = unet.Stage(settings(), 0)
    solids = np.array([len(stage.scenes[row].solids) for row in stage.rows])
    shown = {n: np.sum(solids == n) for n in (1, 2, 3)}
    scenes = [world.training_scene(0, n) for n in range(24)]
    asked = {n: sum(len(scene.solids) == n for scene in scenes) for n in (1, 2, 3)}
    assert shown == {n: unet.REPEATS[n] * asked[n] for n in asked} and all(shown.values())
    same = [
        stage.batch(Batch(step, np.arange(16), slice(0, 16), 16, 0), CPU)["first"]
        for step in (0, 0, 1)
    ]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])


def test_noisy_steps_weigh_more_and_others_as_before():
    class Zero(torch.nn.Module):
        def forward(self, sample, *_, **__):
            return (torch.zeros_like(sample),)

    ones = torch.ones(1, 4, 2, 2)
    loss = {
        (t, layout): Denoiser(Zero(), layout)(
            ones, ones, torch.tensor([t]), ones, ones, ones
        )["loss"].item()
        for t in (20, 980) for layout in (0.0, unet.LAYOUT)
    }  # fmt: skip
    assert loss[20, unet.LAYOUT] == pytest.approx(loss[20, 0.0], rel=0.01)
    assert 4 < loss[980, unet.LAYOUT] / loss[980, 0.0] < 8


def test_the_stage_before_is_asked_for(stages):
    import shutil

    shutil.rmtree(scene_data.stage_folder(RUN, "vae"))
    with pytest.raises(UserError, match="`vae` of run `little` is not trained") as caught:
        unet.Stage(settings(), 0)
    assert "train=vae" in str(caught.value)
