"""`model.unet` and `model.vae`: folders and files, in both layouts, and AutoencoderTiny."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdxl.config import schema
from sdxl.core.errors import ConfigError, UserError
from sdxl.core.paths import BUNDLED
from sdxl.model.components import unscale
from sdxl.model.sources import open_source
from tests.model.conftest import edit, settings

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def tiny_vae(tmp_path):
    """A folder with an AutoencoderTiny of random weights."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    widths = (16, 16, 16, 16)
    vae = AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths)
    vae.save_pretrained(tmp_path / "taesd")
    return tmp_path / "taesd"


def opened(**options):
    return open_source(settings(BUNDLED, **options), 0)


def weights_of(source, name):
    return source.component(name, torch.float32, CPU).state_dict()


def darker(state):
    """The same weights but for one, which shows whose they are."""
    return {k: v - 0.25 if k.endswith("conv_out.bias") else v for k, v in state.items()}


def part_of(checkpoint, prefix, keep):
    """One part of a single file, with its prefix or without."""
    whole = load_file(checkpoint)
    return {
        key if keep else key.removeprefix(prefix): value
        for key, value in whole.items()
        if key.startswith(prefix)
    }


@pytest.mark.parametrize("name", ["unet", "vae"])
@pytest.mark.parametrize("form", ["folder", "whole model", "diffusers", "original", "prefixed"])
def test_a_network_comes_from_a_folder_or_a_file_in_either_layout(
    miniature, checkpoint, tmp_path, name, form
):
    own = weights_of(opened(), name)
    prefix = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}[name]
    file = tmp_path / "part.safetensors"
    if form in ("folder", "whole model"):
        place = miniature if form == "whole model" else miniature / name
    else:
        stored = {key: value.contiguous() for key, value in own.items()}
        if form != "diffusers":
            stored = part_of(checkpoint, prefix, form == "prefixed")
        save_file(stored, file, {"format": "pt"})
        place = file
    source = opened(**{name: str(place)})
    found = weights_of(source, name)
    assert found.keys() == own.keys() and all(torch.equal(found[k], own[k]) for k in own)
    shapes = source.component(name, torch.float16, META)
    assert [p.shape for p in shapes.parameters()] == [v.shape for v in own.values()]
    assert f"other_{name}" in source.identity() and f"{name} from {place}" in source.notes()[-1]


def test_the_replacement_is_used_and_nothing_else_changes(miniature):
    file = miniature / "vae/diffusion_pytorch_model.safetensors"
    save_file(darker(load_file(file)), file, {"format": "pt"})
    source, own = opened(vae=str(miniature / "vae")), opened()
    assert not torch.equal(
        weights_of(source, "vae")["decoder.conv_out.bias"],
        weights_of(own, "vae")["decoder.conv_out.bias"],
    )
    ours, theirs = weights_of(source, "unet"), weights_of(own, "unet")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert source.identity() != own.identity()


@pytest.mark.parametrize("form", ["folder", "file"])
def test_an_autoencoder_tiny_decodes_latents_on_its_own_scale(tiny_vae, form):
    from diffusers import AutoencoderTiny

    reference = AutoencoderTiny.from_pretrained(tiny_vae).eval()
    vae = opened(vae=str(tiny_vae)).component("vae", torch.float32, CPU)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = vae.decode(unscale(latents, vae.config), return_dict=False)[0]
        theirs = reference.decode(latents / reference.config.scaling_factor).sample
    assert ours.shape == (1, 3, 64, 64) and torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["unet", "vae"])
def test_a_place_without_a_network_is_named(tmp_path, name):
    with pytest.raises(UserError, match=f"`model.{name}` holds no") as caught:
        opened(**{name: str(tmp_path / "nowhere")})
    assert f"model.{name}=FOLDER" in str(caught.value)


def test_a_vae_of_another_latent_space_is_refused(miniature):
    edit(miniature / "vae/config.json", latent_channels=16)
    with pytest.raises(ConfigError, match="not the VAE's latents"):
        opened(vae=str(miniature / "vae"))


def test_a_replacement_serves_every_model(miniature):
    model = schema.ScenesModel(
        "tiny", height=128, width=128, negative_prompt="", vae=str(miniature)
    )
    assert "other_vae" in open_source(model, 0).identity()
