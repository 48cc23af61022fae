"""Which files of a component's folder are read, and which are named for what they are."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdxl.core.errors import UserError
from sdxl.core.paths import BUNDLED
from sdxl.model import weight_files
from sdxl.model.locate import hub_patterns
from sdxl.model.sources import open_source
from sdxl.model.weights import WeightSource
from tests.model.conftest import settings

CPU = torch.device("cpu")
STEM = "diffusion_pytorch_model"
CHOICES = [  # names, variant asked for, files read, variant read
    ([f"{STEM}.safetensors"], None, [f"{STEM}.safetensors"], None),
    ([f"{STEM}.safetensors"], "fp16", [f"{STEM}.safetensors"], None),
    ([f"{STEM}.safetensors", f"{STEM}.fp16.safetensors"], "fp16", [f"{STEM}.fp16.safetensors"],
     "fp16"),
    ([f"{STEM}.fp16.safetensors"], None, [], None),
    ([f"{STEM}.non_ema.safetensors", "model.safetensors"], None, ["model.safetensors"], None),
    (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], None,
     ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], None),
    ([f"{STEM}-00001-of-00002.fp16.safetensors", f"{STEM}-00002-of-00002.fp16.safetensors"], "fp16",
     [f"{STEM}-00001-of-00002.fp16.safetensors", f"{STEM}-00002-of-00002.fp16.safetensors"],
     "fp16"),
    ([f"{STEM}.fp16-00001-of-00001.safetensors", f"{STEM}.safetensors"], "fp16",
     [f"{STEM}.fp16-00001-of-00001.safetensors"], "fp16"),
    (["model.safetensors", "model-00001-of-00002.safetensors"], None, ["model.safetensors"], None),
    (["model.safetensors.index.json", "pytorch_model.bin"], None, [], None),
]  # fmt: skip


@pytest.mark.parametrize(("names", "asked", "read", "variant"), CHOICES)
def test_the_variant_is_taken_where_it_is_and_the_plain_file_elsewhere(names, asked, read, variant):
    found = weight_files.choose(names, asked)
    assert (list(found.names), found.variant, found.missing) == (read, variant, ())


def test_a_missing_shard_is_named(miniature):
    (file,) = (miniature / "unet").glob("*.safetensors")
    file.rename(file.with_name(f"{STEM}-00001-of-00002.safetensors"))
    with pytest.raises(UserError, match=f"{STEM}-00002-of-00002") as caught:
        open_source(settings(miniature), 0).component("unet", torch.float32, CPU)
    assert "shards are missing" in str(caught.value)


def equal(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_variant_of_some_components_is_read_and_the_rest_noted(miniature):
    for name in ("unet", "text_encoder", "text_encoder_2"):
        (file,) = (miniature / name).glob("*.safetensors")
        file.rename(file.with_suffix(".fp16.safetensors"))
    source = open_source(settings(miniature, variant="fp16"), 0)
    own = WeightSource(settings(BUNDLED))
    for name in ("unet", "vae"):
        assert equal(*(s.component(name, torch.float32, CPU) for s in (source, own)))
    assert source.notes() == ["no fp16 file of vae: the plain one is read"]
    plain = open_source(settings(miniature), 0)
    assert plain.notes() == ["there is no plain file of text_encoder, text_encoder_2, unet"]
    with pytest.raises(UserError, match="there is no plain file") as caught:
        plain.component("unet", torch.float32, CPU)
    assert "model.variant=fp16" in str(caught.value)


def test_shards_and_prefixes_of_wrappers_give_the_same_network(miniature):
    (file,) = (miniature / "unet").glob("*.safetensors")
    weights = {f"module._orig_mod.{key}": value for key, value in load_file(file).items()}
    names = sorted(weights)
    file.unlink()
    for number, part in enumerate((names[:100], names[100:]), 1):
        shard = miniature / f"unet/{STEM}-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, shard)
    ours = open_source(settings(miniature), 0).component("unet", torch.float32, CPU)
    assert equal(ours, WeightSource(settings(BUNDLED)).component("unet", torch.float32, CPU))


def test_two_variants_of_one_component_have_keys_of_their_own(miniature):
    (file,) = (miniature / "unet").glob("*.safetensors")
    before = WeightSource(settings(miniature)).identity()
    shutil.copy(file, file.with_suffix(".fp16.safetensors"))
    both = [WeightSource(settings(miniature, variant=v)).identity() for v in (None, "fp16")]
    assert both[0] != both[1] and before.items() <= both[0].items()
    assert "variant" not in both[0], "keys of plain files stay what they were"


KINDS = [("diffusion_pytorch_model.bin", "pickled"), ("sdxl-Q4_0.gguf", "GGUF")]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_weights_in_forms_that_are_not_read_are_named(miniature, name, kind):
    (file,) = (miniature / "unet").glob("*.safetensors")
    file.rename(file.with_name(name))
    with pytest.raises(UserError, match=f"{name} is {kind}"):
        open_source(settings(miniature), 0).component("unet", torch.float32, CPU)


def test_packed_weights_in_a_folder_are_named(miniature):
    (file,) = (miniature / "unet").glob("*.safetensors")
    save_file({**load_file(file), "conv_in.weight.absmax": torch.zeros(4)}, file)
    with pytest.raises(UserError, match="bitsandbytes"):
        open_source(settings(miniature), 0).component("unet", torch.float32, CPU)


def test_weights_that_the_configuration_has_no_place_for_are_refused(miniature):
    (file,) = (miniature / "unet").glob("*.safetensors")
    extra = {"time_embedding.cond_proj.weight": torch.zeros(48, 8)}
    save_file({**load_file(file), **extra}, file)
    with pytest.raises(UserError, match="holds 1 weights") as caught:
        open_source(settings(miniature), 0).component("unet", torch.float32, CPU)
    assert "time_embedding.cond_proj.weight" in str(caught.value)


def test_the_hub_is_asked_for_each_components_own_choice():
    listed = [
        f"unet/{STEM}.fp16.safetensors", f"unet/{STEM}.safetensors", f"vae/{STEM}.safetensors",
        "text_encoder/model-00001-of-00001.fp16.safetensors", "text_encoder_2/model.safetensors",
        "text_encoder_2/pytorch_model.bin", "model_index.json", "whole.safetensors",
    ]  # fmt: skip
    assert hub_patterns("fp16", listed)[2:] == [
        "text_encoder/model-00001-of-00001.fp16.safetensors", "text_encoder_2/model.safetensors",
        f"unet/{STEM}.fp16.safetensors", f"vae/{STEM}.safetensors",
    ]  # fmt: skip
