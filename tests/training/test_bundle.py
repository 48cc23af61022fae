"""What is packed from a run's stages: a pipeline in fp16, with its judges."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file

from sdxl.core.errors import UserError
from sdxl.model import architecture
from sdxl.quality.scenes import networks
from sdxl.training import bundle
from sdxl.training.data import scene_data
from sdxl.training.stages import clip, judge

RUN = "packed"


def folder_of(stage):
    folder = scene_data.stage_folder(RUN, stage) / "model"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def trained(monkeypatch):
    """A run of random networks, without the stage `unet` yet; the pair as its stage leaves it."""
    monkeypatch.setattr(bundle.fast_scorer, "rendered_features", lambda size: np.ones((4, 1280)))
    torch.manual_seed(0)
    AutoencoderKL(**architecture.SCENES["vae"]).save_pretrained(folder_of("vae"))
    pair = object.__new__(clip.Stage)
    pair.module = clip.Pair()
    pair.export(folder_of("clip"))
    detecting = object.__new__(judge.Stage)
    detecting.module = judge.Detecting()
    detecting.export(folder_of("judge"))
    return pair.module


def test_a_run_becomes_a_pipeline_with_judges(trained, tmp_path):
    out = tmp_path / "out"
    assert bundle.bundle(RUN, out, 8)["missing"] == ["unet"]
    assert not (out / "model_index.json").exists()
    part = folder_of("unet")
    unet = UNet2DConditionModel(**architecture.SCENES["unet"])
    unet.save_pretrained(part / "unet")
    first, second = scene_data.text_encoders(RUN)
    first.save_pretrained(part / "text_encoder")
    second.save_pretrained(part / "text_encoder_2")
    found = bundle.bundle(RUN, out, 8)
    assert found["missing"] == [] and found["bytes"] < 25e6
    pipe = StableDiffusionXLPipeline.from_pretrained(out)
    for name, value in unet.state_dict().items():
        assert torch.equal(pipe.unet.state_dict()[name], value.half().float())
    packed = load_file(out / networks.FOLDER / networks.ENCODER)
    kept = trained.pictures.state_dict()
    assert all(torch.equal(packed[f"pictures.{k}"], v.half()) for k, v in kept.items())
    assert not any(
        "_name_or_path" in json.loads(file.read_text()) for file in out.rglob("config.json")
    )


def test_a_unet_of_another_vae_is_not_left_beside_the_new_one(trained, tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(UserError, match="holds a pipeline"):
        bundle.bundle(RUN, tmp_path, 8)
    with pytest.raises(UserError, match="run `nobody` lacks stages") as caught:
        bundle.bundle("nobody", tmp_path, 8)
    assert "train.run=nobody" in str(caught.value)
