"""LoRA files in the names that people have, fused into the weights and into the key."""

import pytest
import torch
from safetensors.torch import save_file

from sdxl.config.loras import Lora
from sdxl.config.schema import SdxlModel
from sdxl.core.errors import UserError
from sdxl.model import architecture, lora, lora_file
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


def fuse(network, component, file, scale, unet_config):
    """One LoRA into one component."""
    fits = lora.fitting(
        [Lora(file, scale)], unet_config, lambda name: network if name == component else tiny(name)
    )
    return lora.merge(network, fits.get(component, []))


@pytest.fixture(params=list(NAMES))
def file(request, tmp_path):
    down, up, alpha = NAMES[request.param]
    tensors = {down: DOWN, up: UP, **({alpha: torch.tensor(2.0)} if alpha else {})}
    save_file(tensors, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors", 0.5 if alpha else 1.0


def test_the_weight_moves_by_the_product(file):
    path, share = file
    unet, plain = tiny(), tiny()
    assert fuse(unet, "unet", path, 0.7, unet.config) == 1
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
    assert fuse(unet, "unet", tmp_path / "peft.safetensors", 1.0, unet.config) == 2
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
    fuse(encoder, "text_encoder", tmp_path / "text.safetensors", 1.0, unet.config)
    name = next(n for n, _ in encoder.named_modules() if n.endswith("layers.0.self_attn.out_proj"))
    moved = encoder.get_submodule(name).weight - before.get_submodule(name).weight
    assert torch.allclose(moved, torch.full_like(moved, 2.0), atol=1e-5)


def test_files_that_do_not_fit(tmp_path):
    unet = tiny()
    with pytest.raises(UserError, match="is not there"):
        fuse(unet, "unet", tmp_path / "none.safetensors", 1.0, unet.config)
    save_file({"weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no LoRA for SDXL"):
        fuse(unet, "unet", tmp_path / "other.safetensors", 1.0, unet.config)
    foreign = {"unet.nowhere.lora_A.weight": DOWN, "unet.nowhere.lora_B.weight": UP}
    save_file(foreign, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="does not have"):
        fuse(unet, "unet", tmp_path / "foreign.safetensors", 1.0, unet.config)


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


WIDE = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 77: "another model"}
KOHYA = f"lora_unet_{FLAT}"
PAIR = {f"{KOHYA}.lora_down.weight": DOWN, f"{KOHYA}.lora_up.weight": UP}
CONV = "mid_block.resnets.0.conv1"


def fused(tensors, tmp_path, scale=1.0, dtype=torch.float32):
    """The UNet before and after."""
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "x.safetensors")
    unet, plain = tiny().to(dtype), tiny().to(dtype)
    fuse(unet, "unet", tmp_path / "x.safetensors", scale, unet.config)
    return plain, unet


def weights(networks, name):
    return [network.get_submodule(name).weight for network in networks]


@pytest.mark.parametrize(
    ("names", "magnitude"),
    [(("kohya"), f"{KOHYA}.dora_scale"), ("peft", f"unet.{LAYER}.lora_magnitude_vector.weight"),
     ("peft", f"unet.{LAYER}.lora_magnitude_vector")],
)  # fmt: skip
def test_a_dora_sets_the_length_of_each_row(tmp_path, names, magnitude):
    down, up, alpha = NAMES[names]
    length = torch.rand(64, 1, generator=torch.Generator().manual_seed(3)) + 3
    tensors = {down: DOWN, up: UP, magnitude: length if names == "kohya" else length[:, 0]}
    if alpha:
        tensors[alpha] = torch.tensor(2.0)
    before, after = weights(fused(tensors, tmp_path, 0.7), LAYER)
    moved = before + 0.7 * (0.5 if alpha else 1.0) * UP @ DOWN
    expected = length * moved / moved.norm(dim=1, keepdim=True)
    assert torch.allclose(after, expected, atol=1e-5)


def test_a_dora_of_a_convolution_beside_a_plain_layer(tmp_path):
    generator = torch.Generator().manual_seed(4)
    down, up = torch.randn(2, 64, 3, 3, generator=generator), torch.randn(64, 2, 1, 1)
    length = torch.rand(1, 64, 1, 1, generator=generator) + 3
    tensors = {
        f"unet.{CONV}.lora_A.weight": down, f"unet.{CONV}.lora_B.weight": up,
        f"unet.{CONV}.lora_magnitude_vector": length,
        f"unet.{LAYER}.lora_A.weight": DOWN, f"unet.{LAYER}.lora_B.weight": UP,
    }  # fmt: skip
    networks = fused(tensors, tmp_path)
    before, after = weights(networks, CONV)
    moved = before + (up.flatten(1) @ down.flatten(1)).reshape(before.shape)
    norm = moved.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    assert torch.allclose(after, length.reshape(-1, 1, 1, 1) * moved / norm, atol=1e-5)
    before, after = weights(networks, LAYER)
    assert torch.allclose(after - before, UP @ DOWN, atol=1e-5)


def test_each_layer_has_a_rank_and_an_alpha_of_its_own(tmp_path):
    """diffusers gives layers without an alpha the most common one; here it is their rank."""
    others = [LAYER.replace("to_q", name) for name in ("to_k", "to_v")]
    ranks, alphas = (4, 8, 16), (1.0, 1.0, None)
    tensors, expected = {}, {}
    for layer, rank, alpha in zip((LAYER, *others), ranks, alphas, strict=True):
        stem = f"lora_unet_{layer.replace('.', '_')}"
        down, up = torch.randn(rank, 64), torch.randn(64, rank)
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        if alpha:
            tensors[f"{stem}.alpha"] = torch.tensor(alpha)
        expected[layer] = (alpha or rank) / rank * up @ down
    networks = fused(tensors, tmp_path)
    for layer, change in expected.items():
        before, after = weights(networks, layer)
        assert torch.allclose(after - before, change, atol=1e-4), layer


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "unet.base_model.model."])
def test_a_unet_saved_alone(tmp_path, prefix):
    tensors = {f"{prefix}{LAYER}.lora_A.weight": DOWN, f"{prefix}{LAYER}.lora_B.weight": UP}
    before, after = weights(fused(tensors, tmp_path), LAYER)
    assert torch.allclose(after - before, UP @ DOWN, atol=1e-5)


def test_half_precision_is_rounded_once_and_no_random_number_is_drawn(tmp_path):
    state = torch.random.get_rng_state()
    plain = tiny().half().get_submodule(LAYER).weight
    _, unet = fused({k: v.half() for k, v in PAIR.items()}, tmp_path, 0.7, torch.float16)
    change = 0.7 * (UP.half().float() @ DOWN.half().float())
    assert torch.equal(unet.get_submodule(LAYER).weight, (plain.float() + change).half())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"lora_unet_conv_out.diff": torch.ones(4, 32, 3, 3)}, "lora_unet_conv_out.diff"),
        ({f"{KOHYA}.lora_mid.weight": torch.ones(4, 4, 3, 3)}, "lora_mid.weight"),
        ({"lora_unet_conv_in.lora_up.weight": torch.ones(4, 4)}, "lora_unet_conv_in (up alone)"),
        ({"lora_unet_conv_in.alpha": torch.ones(1)}, "lora_unet_conv_in (alpha alone)"),
        ({f"{SGM}.lora_down.weight": DOWN + 1, f"{SGM}.lora_up.weight": UP + 1}, SGM),
        ({f"{KOHYA}.dora_scale": torch.ones(1, 64)}, "dora_scale of shape (1, 64)"),
        ({f"{KOHYA}.alpha": torch.ones(2)}, f"{KOHYA}.alpha"),
        ({f"{KOHYA}.lora_up.weight": torch.ones(())}, f"{KOHYA}.lora_up.weight"),
        ({f"{KOHYA}.alpha": torch.tensor(float("nan"))}, "NaN"),
        ({"lora_unet_nowhere.lora_down.weight": DOWN + 1,
          "lora_unet_nowhere.lora_up.weight": UP + 1},
         "nowhere"),
        ({"lora_unet_conv_in.lora_down.weight": torch.ones(2, 640, 3, 3),
          "lora_unet_conv_in.lora_up.weight": torch.ones(32, 2, 1, 1)}, "conv_in"),
    ],
)  # fmt: skip
def test_a_file_of_which_something_would_be_left_is_refused(tmp_path, more, named):
    tensors = {k: v.clone() for k, v in (PAIR | more).items()}
    unet, plain = tiny(), tiny()
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError) as caught:
        fuse(unet, "unet", tmp_path / "x.safetensors", 1.0, unet.config)
    assert named in str(caught.value) and "model.lora=null" in str(caught.value)
    for new, old in zip(unet.parameters(), plain.parameters(), strict=True):
        assert torch.equal(new, old), "nothing is changed before all of it is known to fit"


def test_two_changes_of_one_layer_are_not_one(tmp_path):
    """As PEFT's name of it and as that of a UNet saved alone."""
    tensors = {
        f"{prefix}{LAYER}.{name}.weight": tensor.clone()
        for prefix in ("", "unet.")
        for name, tensor in (("lora_A", DOWN), ("lora_B", UP))
    }
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="2 tensors of the LoRA would not be used"):
        lora_file.read(tmp_path / "x.safetensors", tiny().config)


@pytest.mark.parametrize(
    "kind", [("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), ("lokr_w1", "lokr_w2")]
)
def test_other_kinds_of_adapters_are_no_lora(tmp_path, kind):
    save_file({f"{KOHYA}.{name}": torch.ones(4, 4) for name in kind}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="no LoRA for SDXL") as caught:
        lora_file.read(tmp_path / "x.safetensors", tiny().config)
    assert f"{KOHYA}.{kind[0]}" in str(caught.value)


@pytest.mark.parametrize("width", WIDE)
@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_a_lora_for_another_model_is_named(tmp_path, width, component):
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file(
        {f"{stem}.lora_down.weight": torch.ones(4, width), f"{stem}.lora_up.weight": UP.clone(),
         "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.ones(4, 32, 1, 1),
         "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": torch.ones(32, 4, 1, 1)},
        tmp_path / "x.safetensors",
    )  # fmt: skip
    with pytest.raises(UserError, match=f"the LoRA is for {WIDE[width]}") as caught:
        fuse(tiny(component), component, tmp_path / "x.safetensors", 1.0, tiny().config)
    assert f"width {width}" in str(caught.value)


def test_a_truncated_file_and_one_of_another_kind(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({k: v.clone() for k, v in PAIR.items()}, file)
    for content in (file.read_bytes()[:-1], b"<html>not found</html>" * 9, b""):
        file.write_bytes(content)
        with pytest.raises(UserError, match="truncated or not safetensors"):
            lora_file.read(file, tiny().config)
