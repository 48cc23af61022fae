"""One check when a model is opened: parts that go together, other kinds of model by their names."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sdxl.core.errors import ConfigError
from sdxl.core.paths import BUNDLED
from sdxl.model import capability
from sdxl.model.components import COMPONENTS
from sdxl.model.sources import open_source, shapes_source
from tests.model.conftest import edit, settings

OWN = {n: json.loads((BUNDLED / n / "config.json").read_text()) for n in COMPONENTS}
INDEX = json.loads((BUNDLED / "model_index.json").read_text())


def said(index=(), tokens=(), without=(), **changes):
    """The problems of the bundled model's configurations with these changes, as one text."""
    configs = {
        name: {**config, **changes.get(name, {})}
        for name, config in OWN.items()
        if name not in without
    }
    found = capability.problems_of(configs, {**INDEX, **dict(index)}, dict(tokens))
    return "\n".join(line for problem in found for line in problem.lines())


def test_the_bundled_model_and_latent_consistency_models_are_fine():
    assert said(tokens={"tokenizer": 649, "tokenizer_2": 649}) == ""
    assert said(unet={"time_cond_proj_dim": 64}) == "", "fed with the guidance's embedding"
    assert said(vae={"_class_name": "AutoencoderTiny"}) == ""


KINDS = [
    ({"unet": {"in_channels": 9}}, "an inpainting model: its UNet takes 9 channels"),
    ({"unet": {"in_channels": 8}}, "InstructPix2Pix"),
    ({"unet": {"projection_class_embeddings_input_dim": 96 + 5 * 16}}, "the SDXL refiner"),
    (
        {"index": {"requires_aesthetics_score": True}, "without": ["text_encoder"]},
        "the SDXL refiner",
    ),
    (
        {
            "unet": {"addition_embed_type": None, "cross_attention_dim": 768},
            "without": ["text_encoder_2"],
        },
        "Stable Diffusion 1.x",
    ),
    ({"unet": {"addition_embed_type": None, "cross_attention_dim": 1024}}, "Stable Diffusion 2.x"),
    ({"index": {"_class_name": "StableDiffusion3Pipeline"}}, "Stable Diffusion 3"),
    ({"index": {"_class_name": "FluxPipeline"}, "without": ["unet"]}, "Flux"),
    ({"index": {"transformer": ["x", "y"]}, "without": ["unet"]}, "a diffusion transformer"),
]


@pytest.mark.parametrize(("changes", "kind"), KINDS)
def test_another_kind_of_model_is_named_as_such(changes, kind):
    found = said(**changes)
    assert found.startswith("the model is ") and kind in found
    assert "expected a text-to-image SDXL model" in found and found.count("expected") == 1


PARTS = [
    ({"unet": {"out_channels": 8}}, "the UNet's out_channels are not the VAE's latents"),
    ({"vae": {"latent_channels": 16}, "unet": {"in_channels": 16}}, "16 latent channels"),
    ({"vae": {"block_out_channels": [16, 32, 64]}}, "makes 4 pixels of a latent"),
    ({"unet": {"addition_embed_type": "text_image"}}, "addition_embed_type text_image"),
    ({"unet": {"class_embed_type": "timestep"}}, "nothing here makes: class_embed_type"),
    ({"unet": {"encoder_hid_dim_type": "ip_image_proj"}}, "ip_image_proj"),
    ({"unet": {"cross_attention_dim": 161}}, "64 + 96 = 160"),
    ({"unet": {"projection_class_embeddings_input_dim": 200}}, "96 + 6 x 16 = 192"),
    ({"text_encoder_2": {"projection_dim": 90}}, "90 + 6 x 16 = 186"),
    ({"tokens": {"tokenizer_2": 49408}}, "49,408 tokens, 649 rows"),
    ({"text_encoder": {"max_position_embeddings": 32}}, "`text_encoder` takes 32 tokens"),
    ({"vae": {"_class_name": "AsymmetricAutoencoderKL"}}, "`vae` is a AsymmetricAutoencoderKL"),
    ({"unet": {"quantization_config": {"quant_method": "bitsandbytes"}}}, "packed by bitsandbytes"),
    ({"without": ["vae"]}, "the model has no `vae`"),
]


@pytest.mark.parametrize(("changes", "named"), PARTS)
def test_parts_that_do_not_go_together_are_named_with_their_numbers(changes, named):
    assert named in said(**changes)


def test_all_problems_are_said_at_once():
    found = said(unet={"cross_attention_dim": 1, "out_channels": 3}, vae={"latent_channels": 4})
    assert "cross-attention" in found and "out_channels" in found


def inpainting(folder):
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    state = load_file(file)
    first = state["conv_in.weight"]
    state["conv_in.weight"] = np.concatenate([first, np.zeros((len(first), 5, 3, 3), "f4")], 1)
    save_file(state, file, {"format": "pt"})
    edit(folder / "unet/config.json", in_channels=9)
    edit(folder / "model_index.json", _class_name="StableDiffusionXLInpaintPipeline")


def refiner(folder):
    for name in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / name)
    edit(folder / "model_index.json", requires_aesthetics_score=True,
         _class_name="StableDiffusionXLImg2ImgPipeline")  # fmt: skip


@pytest.mark.parametrize(("make", "kind"), [(inpainting, "inpainting"), (refiner, "refiner")])
@pytest.mark.parametrize("opened", [open_source, shapes_source])
def test_a_folder_of_another_kind_is_refused_when_opened_for_work_and_for_a_plan(
    miniature, make, kind, opened
):
    make(miniature)
    with pytest.raises(ConfigError, match=kind) as caught:
        opened(settings(miniature), 0)
    assert caught.value.exit_code == 2


def test_a_tokenizer_of_another_model_is_refused(miniature):
    vocabulary = {f"t{number}": number for number in range(900)}
    (miniature / "tokenizer/tokenizer.json").write_text(
        json.dumps({"model": {"vocab": vocabulary}, "added_tokens": [{"id": 1000}]})
    )
    with pytest.raises(ConfigError, match="`tokenizer` has tokens without a row") as caught:
        open_source(settings(miniature), 0)
    assert "1,001 tokens, 649 rows" in str(caught.value)


@pytest.mark.parametrize("extra", [{}, {"<new>": 1000}])
def test_rows_are_counted_from_either_form_of_a_tokenizer(tmp_path, extra):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    if extra:
        (tmp_path / "added_tokens.json").write_text(json.dumps(extra))
    assert capability.rows_of(tmp_path) == (1001 if extra else 2)
    assert capability.rows_of(tmp_path / "none") == 0
