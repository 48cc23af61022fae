"""Models without a download: one seed is one model, on every machine and at every precision."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch

from sdxl.config import schema
from sdxl.core.errors import UserError
from sdxl.model import architecture, seeded
from sdxl.model.components import COMPONENTS, torch_device
from sdxl.model.seeded import RandomSource
from sdxl.model.sources import open_source
from tests.conftest import ROOT

CPU, META = torch.device("cpu"), torch.device("meta")


def tiny(seed=0, unet_config=None):
    return RandomSource(architecture.TINY, seed, unet_config)


def digest(module):
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_seed_decides_the_weights_and_nothing_else_does(name):
    torch.manual_seed(1)
    first = digest(tiny().component(name, torch.float32, CPU))
    torch.manual_seed(2)
    torch.randn(10)
    assert digest(tiny().component(name, torch.float32, CPU)) == first
    assert digest(tiny(seed=1).component(name, torch.float32, CPU)) != first


PROCESS = """
import hashlib, json, torch
from sdxl.model import architecture, seeded, tokenizer
from tests.model.test_sources import digest
source = seeded.RandomSource(architecture.TINY, 0)
unet = source.component("unet", torch.float32, torch.device("cpu"))
words = hashlib.sha256(json.dumps(tokenizer.vocabulary()).encode()).hexdigest()
print(digest(unet), words)
"""


@pytest.mark.slow
def test_every_process_builds_the_same_model_and_vocabulary():
    import os

    said = set()
    for hash_seed, threads in (("1", "1"), ("2", "2")):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "RAYON_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", PROCESS], cwd=ROOT, env=env, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.add(done.stdout)
    assert len(said) == 1


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_model_is_the_wide_one_rounded(name, dtype):
    wide = tiny().component(name, torch.float32, CPU).state_dict()
    narrow = tiny().component(name, dtype, CPU).state_dict()
    assert wide.keys() == narrow.keys()
    for key, value in wide.items():
        expected = value.to(dtype) if value.is_floating_point() else value
        assert narrow[key].dtype == expected.dtype and torch.equal(narrow[key], expected), key


def test_components_are_ready_to_run():
    for name in COMPONENTS:
        module = tiny().component(name, torch.float32, CPU)
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_the_tiny_unet_has_every_kind_of_block_that_sdxl_has():
    def kinds(configs):
        unet = RandomSource(configs, 0).component("unet", torch.float32, META)
        return {type(module).__name__ for module in unet.modules()}

    assert kinds(architecture.TINY) == kinds(architecture.SDXL)


@pytest.mark.slow
def test_sdxl_random_has_sdxls_parameters():
    source = open_source(schema.RandomModel("sdxl_random"), 0)
    count = {
        name: sum(p.numel() for p in source.component(name, torch.float16, META).parameters())
        for name in COMPONENTS
    }
    assert count["unet"] == 2_567_463_684
    assert count["vae"] == 83_653_863
    # The published encoders have 123,060,480 and 694,659,840 parameters.
    assert (count["text_encoder"], count["text_encoder_2"]) == (123_060_480, 694_659_840)


@pytest.fixture
def config_file(tmp_path):
    """Changes to the tiny UNet's configuration -> a diffusers config.json."""

    def make(**changes):
        path = tmp_path / "config.json"
        config = {"_class_name": "UNet2DConditionModel", **architecture.TINY["unet"], **changes}
        path.write_text(json.dumps(config))
        return str(path)

    return make


@pytest.mark.parametrize(
    "changes",
    [
        {"layers_per_block": 2},
        {"block_out_channels": [16, 32, 32], "attention_head_dim": [1, 2, 2]},
        {"transformer_layers_per_block": [1, 2, 3]},
        {
            "block_out_channels": [32, 64],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 1],
            "attention_head_dim": [2, 4],
        },
        {"mid_block_type": None},
    ],
    ids=["deeper", "narrower", "longer transformers", "two levels", "no middle block"],
)
def test_any_unet_config_of_diffusers_is_built_and_runs(config_file, changes):
    unet = tiny(unet_config=config_file(**changes)).component("unet", torch.float32, CPU)
    for name, value in changes.items():
        assert unet.config[name] == value
    with torch.inference_mode():
        out = unet(
            torch.randn(2, 4, 16, 16), 500, torch.randn(2, 77, 96),
            added_cond_kwargs={"text_embeds": torch.randn(2, 64), "time_ids": torch.zeros(2, 6)},
        ).sample  # fmt: skip
    assert out.shape == (2, 4, 16, 16) and torch.isfinite(out).all()


def test_a_unet_config_that_cannot_fit_is_refused(config_file, tmp_path):
    with pytest.raises(UserError, match="cross_attention_dim"):
        tiny(unet_config=config_file(cross_attention_dim=2048))
    with pytest.raises(UserError, match="cannot be read"):
        tiny(unet_config=str(tmp_path / "nowhere.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        tiny(unet_config=str(tmp_path / "bad.json"))


def test_an_impossible_unet_config_is_the_users_mistake(config_file):
    path = config_file(attention_head_dim=[2, 4])  # two numbers for three levels
    with pytest.raises(UserError, match="unet_config"):
        tiny(unet_config=path).component("unet", torch.float32, CPU)


def test_an_absent_device_is_refused_with_the_present_ones():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(UserError, match="no cuda device") as caught:
        torch_device(schema.Device.cuda)
    assert "cpu" in caught.value.problems[0].expected
    assert torch_device(schema.Device.auto) in (CPU, torch.device("mps"))


def test_random_weights_are_those_of_the_cpu_on_every_device(monkeypatch):
    """Shapes stand in for a GPU: what is copied there was drawn here."""
    there, drawn = torch.nn.Linear(8, 4, device="meta"), []
    normal = torch.Tensor.normal_

    def noted(tensor, *given, **words):
        drawn.append(normal(tensor, *given, **words))
        return drawn[-1]

    here = torch.nn.Linear(8, 4)
    seeded._fill(here, "0/unet")
    monkeypatch.setattr(torch.Tensor, "normal_", noted)
    seeded._fill(there, "0/unet")
    assert [each.device.type for each in drawn] == ["cpu", "cpu"]
    assert torch.equal(drawn[0], here.weight) and torch.equal(drawn[1], here.bias)
