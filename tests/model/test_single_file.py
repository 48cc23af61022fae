"""Single files in the original layout: the folder's own weights, and all that is none."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdxl.core.errors import ConfigError, UserError
from sdxl.core.paths import BUNDLED
from sdxl.model import architecture, clip_vocabulary, loading, original, original_config
from sdxl.model.components import COMPONENTS
from sdxl.model.sources import open_source
from sdxl.model.weights import WeightSource
from tests.model.conftest import settings

CPU, META = torch.device("cpu"), torch.device("meta")


def opened(path, **options):
    return open_source(settings(path, **options), 0)


def equal(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def changed(checkpoint, tmp_path, change):
    """A copy of the file after `change(weights)`, which returns the metadata or None."""
    weights = load_file(checkpoint)
    told = change(weights) or {}
    save_file(weights, tmp_path / "changed.safetensors", {"format": "pt", **told})
    return tmp_path / "changed.safetensors"


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_file_gives_the_weights_of_the_folder_it_was_made_from(checkpoint, name):
    ours = opened(checkpoint).component(name, torch.float32, CPU)
    assert equal(ours, WeightSource(settings(BUNDLED)).component(name, torch.float32, CPU))
    assert not ours.training and not any(p.requires_grad for p in ours.parameters())


def test_a_file_has_the_originals_names(checkpoint):
    names = load_file(checkpoint).keys()
    wanted = [
        "model.diffusion_model.input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.middle_block.1.proj_in.weight",
        "model.diffusion_model.output_blocks.1.2.conv.weight",
        "model.diffusion_model.label_emb.0.0.weight",
        "first_stage_model.decoder.up.3.block.0.conv1.weight",
        "first_stage_model.encoder.mid.attn_1.q.weight",
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
        "conditioner.embedders.1.model.text_projection",
    ]
    assert [name for name in wanted if name not in names] == []


def test_tokenizers_scheduler_and_key_come_with_the_file(checkpoint, tmp_path):
    ours, theirs = opened(checkpoint), WeightSource(settings(BUNDLED))
    for first, second in zip(ours.tokenizers(), theirs.tokenizers(), strict=True):
        assert first("a red cube")["input_ids"] == second("a red cube")["input_ids"]
    assert ours.scheduler().config["timestep_spacing"] == "leading"
    other = changed(checkpoint, tmp_path, brighter)
    assert opened(other).identity() != ours.identity()


def brighter(weights):
    weights["model.diffusion_model.input_blocks.0.0.bias"] += 1


PUBLISHED = {  # names of sd_xl_base_1.0.safetensors
    "model.diffusion_model.input_blocks.3.0.op.weight",
    "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight",
    "model.diffusion_model.output_blocks.2.2.conv.weight",
    "model.diffusion_model.output_blocks.8.0.skip_connection.weight",
    "first_stage_model.decoder.up.1.upsample.conv.weight",
    "conditioner.embedders.0.transformer.text_model.encoder.layers.11.mlp.fc2.bias",
    "conditioner.embedders.1.model.transformer.resblocks.31.mlp.c_proj.bias",
}


def test_the_published_shapes_are_told_from_a_files_shapes_alone():
    names = []
    for name in COMPONENTS:
        config = architecture.SDXL[name]
        network = loading.on_meta(name, config)
        full = dict(network.config) if name in ("unet", "vae") else config
        state = original.from_diffusers(name, network.state_dict(), full)
        prefix = original.PREFIXES[name]
        shapes = {key.removeprefix(prefix): tuple(t.shape) for key, t in state.items()}
        derived = original_config.DERIVED[name](shapes)
        assert {key: derived[key] for key in config} == config
        names += state
    assert len(names) == 2513, "the published file's, without position_ids and logit_scale"
    assert set(names) >= PUBLISHED


def test_a_prefix_of_a_wrapper_is_taken_off(checkpoint, tmp_path):
    weights = {f"module._orig_mod.{key}": w for key, w in load_file(checkpoint).items()}
    save_file(weights, tmp_path / "wrapped.safetensors")
    ours = opened(tmp_path / "wrapped.safetensors").component("unet", torch.float32, CPU)
    assert equal(ours, WeightSource(settings(BUNDLED)).component("unet", torch.float32, CPU))


def test_what_a_file_lacks_comes_from_the_folder_that_goes_with_it(checkpoint, tmp_path):
    def only_unet(weights):
        for key in [key for key in weights if not key.startswith("model.diffusion_model.")]:
            del weights[key]

    file = changed(checkpoint, tmp_path, only_unet)
    with pytest.raises(ConfigError) as caught:
        opened(file)
    said = str(caught.value)
    assert "has no `vae`" in said and "model.vae=FOLDER" in said and "model.config=FOLDER" in said
    source = opened(file, config=str(BUNDLED))
    theirs = WeightSource(settings(BUNDLED))
    for name in COMPONENTS:
        ours = source.component(name, torch.float32, CPU)
        assert equal(ours, theirs.component(name, torch.float32, CPU))
    assert "text_encoder, text_encoder_2, vae from" in source.notes()[0]


MARKS = [
    (["v_pred"], {}, {"prediction_type": "v_prediction"}),
    (["v_pred", "ztsnr"], {}, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
    ([], {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
    (["model_ema.decay", "denoiser.sigmas"], {}, {"prediction_type": "epsilon"}),
]


@pytest.mark.parametrize(("keys", "told", "wanted"), MARKS)
def test_marks_of_the_noise_schedule_are_read(
    checkpoint, tmp_path, monkeypatch, keys, told, wanted
):
    def mark(weights):
        weights.update({key: torch.zeros(1) for key in keys})
        return told

    file = changed(checkpoint, tmp_path, mark)
    source = opened(file)
    monkeypatch.setattr(type(source), "_bundled", False)  # which has a scheduler of its own
    assert {key: source.scheduler().config[key] for key in wanted} == wanted


def test_a_small_file_of_sdxls_names_is_one_that_lacks_weights(tmp_path):
    def zeros(*shape):
        return torch.zeros(shape, dtype=torch.float16)

    names = {
        "model.diffusion_model.input_blocks.0.0.weight": zeros(320, 4, 3, 3),
        "first_stage_model.decoder.conv_in.weight": zeros(4, 4, 3, 3),
        "conditioner.embedders.1.model.ln_final.weight": zeros(1280),
    }
    save_file(names, tmp_path / "dream.safetensors")
    with pytest.raises(UserError, match="is an SDXL file whose `unet` lacks weights") as caught:
        opened(tmp_path / "dream.safetensors")
    said = str(caught.value)
    assert "model.diffusion_model.input_blocks.0.0.bias" in said and "more" in said


OTHERS = [
    ("lora_unet_down_blocks_1.lora_down.weight", "a LoRA"),
    ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "Stable Diffusion 1.x"),
    ("cond_stage_model.model.ln_final.weight", "Stable Diffusion 2.x"),
    ("conditioner.embedders.0.model.ln_final.weight", "the SDXL refiner"),
    ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3"),
    ("model.diffusion_model.double_blocks.0.x", "Flux"),
    ("decoder.conv_in.weight", "no SDXL model in the original key layout"),
]


@pytest.mark.parametrize(("key", "kind"), OTHERS)
def test_files_of_other_kinds_are_named(tmp_path, key, kind):
    save_file({key: torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=kind):
        opened(tmp_path / "other.safetensors")


def strange(weights):
    weights["embeddings.something"] = torch.zeros(2, 2)


def lost(weights):
    del weights["first_stage_model.decoder.up.1.block.0.norm1.bias"]


def left_over(weights):
    weights["model.diffusion_model.input_blocks.0.0.extra"] = torch.zeros(2, 2)


def inpainting(weights):
    key = "model.diffusion_model.input_blocks.0.0.weight"
    weights[key] = torch.cat([weights[key], torch.zeros(len(weights[key]), 5, 3, 3)], 1)


CHANGES = [
    (strange, "belong to no part of SDXL"),
    (lost, "first_stage_model.decoder.up.1.block.0.norm1.bias"),
    (left_over, "model.diffusion_model.input_blocks.0.0.extra"),
    (inpainting, "an inpainting model"),
]


@pytest.mark.parametrize(("change", "named"), CHANGES)
def test_every_weight_of_a_file_is_used_or_the_file_is_refused(checkpoint, tmp_path, change, named):
    with pytest.raises(UserError) as caught:
        opened(changed(checkpoint, tmp_path, change), config=str(BUNDLED))
    assert named in str(caught.value)


def test_packed_weights_are_named_for_what_they_are(tmp_path):
    name = "model.diffusion_model.input_blocks.4.1.proj_in.weight"
    for extra, said in (
        ({f"{name}.absmax": torch.zeros(4)}, "bitsandbytes'"),
        ({f"{name}.comfy_quant": torch.zeros(4)}, "a packer's"),
        ({name: torch.zeros(4, 4).to(torch.float8_e4m3fn)}, "F8_E4M3"),
        ({name: torch.zeros(4, 4, dtype=torch.int8)}, "I8"),
    ):
        save_file(extra, tmp_path / "packed.safetensors")
        with pytest.raises(UserError, match="packed weights") as caught:
            opened(tmp_path / "packed.safetensors")
        assert said in str(caught.value)


def test_clips_vocabulary_is_found_or_named_with_the_line_that_brings_it(tmp_path, monkeypatch):
    monkeypatch.setattr(clip_vocabulary.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="CLIP's vocabulary is not on this machine") as caught:
        clip_vocabulary.find()
    assert "python -m sdxl download vocabulary" in str(caught.value)
    folder = tmp_path / "store/sdxl/tokenizer"
    folder.mkdir(parents=True)
    vocabulary = clip_vocabulary.vocabulary_of([("a", "b</w>")])
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#v\na b</w>\n")
    assert clip_vocabulary.words(clip_vocabulary.find()) == (vocabulary, [("a", "b</w>")])
    assert np.max(list(vocabulary.values())) == 514
