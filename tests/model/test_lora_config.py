"""LoRAs as diffusers and PEFT save them, fused as they fuse them."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sdxl.config.loras import Lora
from sdxl.core.errors import UserError
from sdxl.model import architecture, lora, lora_config
from sdxl.model.seeded import RandomSource

CPU = torch.device("cpu")
LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "mid_block.resnets.0.conv1"
KOHYA = f"lora_unet_{LAYER.replace('.', '_')}"
SOURCE = RandomSource(architecture.TINY, 0)


def component(name="unet"):
    return SOURCE.component(name, torch.float32, CPU)


def normal(*shape):
    return 0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def fuse(network, *loras, name="unet"):
    """The network with the LoRAs in it."""
    fits = lora.fitting(loras, component().config, lambda other: component(other))
    lora.merge(network, fits[name])
    return network


def kohya(stem, down, up, alpha):
    return {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up,
            f"{stem}.alpha": torch.tensor(alpha)}  # fmt: skip


def pair(stem, down, up):
    return {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}


@pytest.fixture
def peft(tmp_path):
    """Save an adapter by PEFT itself; returns the folder and the UNet as PEFT merges it."""
    from peft import LoraConfig, get_peft_model

    def make(scale=1.0, **options):
        torch.manual_seed(5)
        config = LoraConfig(
            r=4, target_modules=["to_q", "conv1"], init_lora_weights=False, **options
        )
        model = get_peft_model(component(), config)
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.data.mul_(1 + torch.rand_like(parameter))
        model.save_pretrained(tmp_path / "peft")
        for module in model.modules():
            if hasattr(module, "set_scale"):
                module.set_scale("default", scale)
        return tmp_path / "peft", model.merge_and_unload()

    return make


def furthest(one, other):
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return max((mine - theirs).abs().max().item() for (_, mine), (_, theirs) in pairs)


def test_two_loras_at_two_scales_are_what_diffusers_fuses(tmp_path):
    """The UNet and a text encoder, Kohya's names and diffusers', a Linear and a convolution."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    text = "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj"
    width = architecture.TINY["text_encoder_2"]["hidden_size"]
    one = kohya(KOHYA, normal(4, 64), normal(64, 4), 2.0)
    one |= kohya(f"lora_unet_{CONV.replace('.', '_')}", normal(4, 64, 3, 3),
                 normal(64, 4, 1, 1), 2.0)  # fmt: skip
    two = pair(f"unet.{LAYER}", normal(8, 64), normal(64, 8))
    two |= pair(text, normal(8, width), normal(width, 8))
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    save_file(one, files[0]), save_file(two, files[1])
    names = ("unet", "vae", "text_encoder", "text_encoder_2")
    first, second = SOURCE.tokenizers()
    pipe = StableDiffusionXLPipeline(
        **{name: component(name) for name in names}, tokenizer=first, tokenizer_2=second,
        scheduler=EulerDiscreteScheduler(), add_watermarker=False,
    )  # fmt: skip
    for name, file in zip("ab", files, strict=True):
        pipe.load_lora_weights(file, adapter_name=name)
    pipe.set_adapters(["a", "b"], [0.7, -0.4])
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    asked = [Lora(files[0], 0.7), Lora(files[1], -0.4)]
    for name, theirs in (("unet", pipe.unet), ("text_encoder_2", pipe.text_encoder_2)):
        ours = fuse(component(name), *asked, name=name)
        assert furthest(ours, theirs) < 1e-5
        assert furthest(ours, component(name)) > 0.1


@pytest.mark.parametrize("options", [
    {"lora_alpha": 16}, {"use_dora": True, "lora_alpha": 2},
    {"use_rslora": True, "lora_alpha": 8}, {"lora_alpha": 8, "alpha_pattern": {"conv1": 1}},
])  # fmt: skip
def test_a_folder_of_pefts_is_what_peft_merges(peft, options):
    """Alpha stands in adapter_config.json alone; a DoRA of Linear layers and convolutions."""
    folder, theirs = peft(0.7, **options)
    ours = fuse(component(), Lora(folder, 0.7))
    assert furthest(ours, theirs) < 1e-5
    assert furthest(ours, component()) > 0.01


def test_settings_in_a_files_header_are_what_diffusers_reads(tmp_path):
    header = {"unet.r": 4, "unet.lora_alpha": 16, "unet.target_modules": ["to_q"]}
    file, plain = tmp_path / "x.safetensors", tmp_path / "plain.safetensors"
    tensors = pair(f"unet.{LAYER}", normal(4, 64), normal(64, 4))
    save_file(tensors, file, {"format": "pt", "lora_adapter_metadata": json.dumps(header)})
    save_file(tensors, plain)
    strong, weak = (fuse(component(), Lora(each, 1.0)).get_submodule(LAYER).weight
                    for each in (file, plain))  # fmt: skip
    before = component().get_submodule(LAYER).weight
    assert torch.allclose(strong - before, 4 * (weak - before), atol=1e-5)


def test_an_alpha_said_twice_is_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    header = {"format": "pt", "lora_adapter_metadata": json.dumps({"unet.lora_alpha": 16})}
    save_file(kohya(KOHYA, normal(4, 64), normal(64, 4), 2.0), file, header)
    with pytest.raises(UserError, match="would not be used") as caught:
        fuse(component(), Lora(file, 1.0))
    assert f"{KOHYA}.alpha" in str(caught.value)


def test_a_locon_of_three_convolutions(tmp_path):
    """`lora_mid` between two of 1 x 1, as LyCORIS decomposes a 3 x 3 kernel."""
    stem = f"lora_unet_{CONV.replace('.', '_')}"
    down, mid, up = normal(4, 64, 1, 1), normal(6, 4, 3, 3), normal(64, 6, 1, 1)
    tensors = kohya(stem, down, up, 3.0) | {f"{stem}.lora_mid.weight": mid}
    save_file(tensors, tmp_path / "x.safetensors")
    fused = fuse(component(), Lora(tmp_path / "x.safetensors", 0.5)).get_submodule(CONV)
    plain = component().get_submodule(CONV)
    picture = torch.randn(1, 64, 8, 8)
    hidden = torch.nn.functional.conv2d(picture, down)
    hidden = torch.nn.functional.conv2d(hidden, mid, padding=1)
    change = 0.5 * 3 / 6 * torch.nn.functional.conv2d(hidden, up)
    assert torch.allclose(fused(picture), plain(picture) + change, atol=1e-4)


@pytest.mark.parametrize("name", ["adapter_model", "pytorch_lora_weights", "of_mine"])
def test_the_one_file_of_a_folder(tmp_path, name):
    file = tmp_path / f"{name}.safetensors"
    file.write_bytes(b"")
    if name != "of_mine":
        (tmp_path / "checkpoint.safetensors").write_bytes(b"")
    assert lora_config.existing(tmp_path) == lora_config.existing(file) == file


@pytest.mark.parametrize("names", [[], ["a.safetensors", "b.safetensors"], ["adapter_model.bin"]])
def test_a_folder_that_does_not_say_which(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="does not hold one LoRA") as caught:
        lora_config.existing(tmp_path)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize("text", ["{", '{"peft_type": "LOHA"}', "[]", '"x"'])
def test_settings_of_another_kind(peft, text):
    folder, _ = peft()
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=r"settings of `model\.lora` cannot be read"):
        fuse(component(), Lora(folder, 1.0))
