"""LoRA files in the names that people have, fused into the weights and into the key."""

import pytest
import torch
from safetensors.torch import save_file

from sdxl.config.schema import SdxlModel
from sdxl.core.errors import UserError
from sdxl.model import architecture, lora
from sdxl.model.seeded import RandomSource
from sdxl.model.weights import WeightSource

CPU = torch.device("cpu")
LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
FLAT = LAYER.replace(".", "_")
SGM = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
DOWN = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
UP = torch.randn(64, 4, generator=torch.Generator().manual_seed(2))
NAMES = {
    "peft": (f"unet.{LAYER}.lora_A.weight", f"unet.{LAYER}.lora_B.weight", None),
    "diffusers": (f"unet.{LAYER}.lora.down.weight", f"unet.{LAYER}.lora.up.weight", None),
    "kohya": (f"lora_unet_{FLAT}.lora_down.weight", f"lora_unet_{FLAT}.lora_up.weight",
              f"lora_unet_{FLAT}.alpha"),
    "sgm": (f"{SGM}.lora_down.weight", f"{SGM}.lora_up.weight", f"{SGM}.alpha"),
}  # fmt: skip


def tiny(name="unet"):
    return RandomSource(architecture.TINY, 0).component(name, torch.float32, CPU)


@pytest.fixture(params=list(NAMES))
def file(request, tmp_path):
    down, up, alpha = NAMES[request.param]
    tensors = {down: DOWN, up: UP, **({alpha: torch.tensor(2.0)} if alpha else {})}
    save_file(tensors, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors", 0.5 if alpha else 1.0


def test_the_weight_moves_by_the_product(file):
    path, share = file
    unet, plain = tiny(), tiny()
    assert lora.fuse(unet, "unet", path, 0.7, unet.config) == 1
    moved = unet.get_submodule(LAYER).weight - plain.get_submodule(LAYER).weight
    assert torch.allclose(moved, 0.7 * share * UP @ DOWN, atol=1e-5)
    changed = [
        name
        for (name, new), old in zip(unet.named_parameters(), plain.parameters(), strict=True)
        if not torch.equal(new, old)
    ]
    assert changed == [f"{LAYER}.weight"]


def test_convolutions_output_projections_and_text_encoders(tmp_path):
    conv, out = "mid_block.resnets.0.conv1", LAYER.replace("to_q", "to_out")
    text = "text_model_encoder_layers_0_self_attn_out_proj"
    save_file(
        {
            f"unet.{conv}.lora_A.weight": torch.ones(2, 64, 3, 3),
            f"unet.{conv}.lora_B.weight": torch.ones(64, 2, 1, 1),
            f"unet.{out}.0.lora_A.weight": DOWN.clone(),
            f"unet.{out}.0.lora_B.weight": UP.clone(),
        },
        tmp_path / "peft.safetensors",
    )
    unet, plain = tiny(), tiny()
    assert lora.fuse(unet, "unet", tmp_path / "peft.safetensors", 1.0, unet.config) == 2
    moved = unet.get_submodule(conv).weight - plain.get_submodule(conv).weight
    assert torch.allclose(moved, torch.full_like(moved, 2.0), atol=1e-5)
    save_file(
        {
            f"lora_te1_{text}.lora_down.weight": torch.ones(2, 32),
            f"lora_te1_{text}.lora_up.weight": torch.ones(32, 2),
            f"lora_te1_{text}.alpha": torch.tensor(2.0),
        },
        tmp_path / "text.safetensors",
    )
    encoder, before = tiny("text_encoder"), tiny("text_encoder")
    lora.fuse(encoder, "text_encoder", tmp_path / "text.safetensors", 1.0, unet.config)
    name = next(n for n, _ in encoder.named_modules() if n.endswith("layers.0.self_attn.out_proj"))
    moved = encoder.get_submodule(name).weight - before.get_submodule(name).weight
    assert torch.allclose(moved, torch.full_like(moved, 2.0), atol=1e-5)


def test_files_that_do_not_fit(tmp_path):
    unet = tiny()
    with pytest.raises(UserError, match="is not there"):
        lora.fuse(unet, "unet", tmp_path / "none.safetensors", 1.0, unet.config)
    save_file({"weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no LoRA for SDXL"):
        lora.fuse(unet, "unet", tmp_path / "other.safetensors", 1.0, unet.config)
    foreign = {"unet.nowhere.lora_A.weight": DOWN, "unet.nowhere.lora_B.weight": UP}
    save_file(foreign, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="does not have"):
        lora.fuse(unet, "unet", tmp_path / "foreign.safetensors", 1.0, unet.config)


def test_the_model_has_it_fused_and_in_its_identity(tmp_path):
    tiny().save_pretrained(tmp_path / "unet", safe_serialization=True)
    (tmp_path / "model_index.json").write_text("{}")
    file = tmp_path / "lora" / "x.safetensors"
    file.parent.mkdir()
    down, up, _ = NAMES["peft"]
    save_file({down: DOWN, up: UP}, file)
    settings = {"name": "sdxl", "path": str(tmp_path), "height": 64, "width": 64,
                "negative_prompt": ""}  # fmt: skip
    plain = WeightSource(SdxlModel(**settings))
    fused = WeightSource(SdxlModel(**settings, lora=str(file)))
    weaker = WeightSource(SdxlModel(**settings, lora=str(file), lora_scale=0.5))
    identities = [str(source.identity()) for source in (plain, fused, weaker)]
    assert len(set(identities)) == 3
    before, after = (
        source.component("unet", torch.float32, CPU).get_submodule(LAYER).weight
        for source in (plain, fused)
    )
    assert torch.allclose(after - before, UP @ DOWN, atol=1e-5)
