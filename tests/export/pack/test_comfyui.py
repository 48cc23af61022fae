"""One file in the original layout: the weights that were measured, 8-bit ones in ComfyUI's form."""

import json
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from sdxl.export.pack import comfyui
from sdxl.model import original
from sdxl.model.checkpoint import Checkpoint
from sdxl.model.sources import open_source
from sdxl.quant import build
from tests.run.pack.conftest import SMALL

PREFIX = original.PREFIXES["unet"]


def test_weights_come_back(load, tmp_path):
    config = load(*SMALL)
    comfyui.write(config, {}, tmp_path, lambda _: None)
    (file,) = tmp_path.glob("*.safetensors")
    stored = {k: t for k, t in load_file(file).items() if k.startswith(PREFIX)}
    source = open_source(config.model, config.seed)
    ours = source.component("unet", torch.float16, torch.device("cpu"))
    bare = {key.removeprefix(PREFIX): tensor for key, tensor in stored.items()}
    found = original.to_diffusers("unet", bare, ours.config)
    wanted = ours.state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("words", "form", "scales"),
    [
        (("quant=int8_weight_only", "quant_level=2.5"), "int8_tensorwise", {"weight_scale"}),
        (
            ("quant=fp8", "quant_level=2.5", "calib_size=1"),
            "float8_e4m3fn",
            {"weight_scale", "input_scale"},
        ),
    ],
)
def test_linears_in_eight_bits_say_what_they_are(load, words, form, scales):
    config = load(*SMALL, *words)
    stored = Checkpoint(build.prepare(config).path)
    shapes = open_source(config.model, config.seed).configs["unet"]
    counts = Counter()
    found = comfyui.unet(stored, torch.float16, shapes, counts)
    marked = [key.removesuffix(".comfy_quant") for key in found if key.endswith(".comfy_quant")]
    linears = [name for name, layer in stored.layers.items() if layer.kind == "linear"]
    assert len(marked) == len(linears) == counts[f"Linear layers with {words[0][6:]} weights"]
    assert all(found[f"{name}.weight"].element_size() == 1 for name in marked)
    for name in marked[:3]:
        assert json.loads(bytes(found[f"{name}.comfy_quant"].tolist())) == {"format": form}
        assert {key.rpartition(".")[2] for key in found if key.startswith(f"{name}.")} - scales <= {
            "weight", "bias", "comfy_quant"
        }  # fmt: skip
    one = next(name for name in linears if "attn1.to_q" in name)
    place = next(iter(original.from_diffusers("unet", {f"{one}.weight": torch.empty(0)}, shapes)))
    codes, scale = found[place], found[place.replace(".weight", ".weight_scale")]
    assert torch.allclose(codes.float() * scale, stored.weight(one, torch.float32), rtol=1e-5)


def test_smoothed_linears_are_written_as_what_they_amount_to(load):
    config = load(*SMALL, "quant=int8", "quant_level=2.5", "calib_size=1")
    stored, counts = Checkpoint(build.prepare(config).path), Counter()
    shapes = open_source(config.model, config.seed).configs["unet"]
    found = comfyui.unet(stored, torch.float32, shapes, counts)
    assert not [key for key in found if key.endswith(".comfy_quant")]
    one = next(name for name in stored.layers if "attn1.to_q" in name)
    place = next(iter(original.from_diffusers("unet", {f"{one}.weight": torch.empty(0)}, shapes)))
    source = open_source(config.model, config.seed)
    plain = source.component("unet", torch.float32, torch.device("cpu")).get_submodule(one).weight
    assert (found[place] - plain).abs().max() < 0.02 * plain.abs().max()
