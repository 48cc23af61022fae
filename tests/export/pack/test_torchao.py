"""8-bit Linears in torchao's form: the layer that was measured, by torchao's own arithmetic."""

import json

import pytest
import torch
from torch.nn import functional

from sdxl.config.schema import Format
from sdxl.export.pack import diffusers_folder, torchao
from sdxl.model.checkpoint import Checkpoint
from sdxl.model.codes import rounded
from sdxl.quant import build
from tests.run.pack.conftest import SMALL


@pytest.fixture(scope="module")
def quantized(load, tmp_path_factory):
    """A checkpoint of every Linear and convolution, smoothed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDXL_STORE", str(tmp_path_factory.mktemp("store")))
        config = load(*SMALL, "quant=int8", "quant_level=3", "calib_size=1")
        yield config, build.prepare(config).path


def linears(stored):
    return [name for name, layer in stored.layers.items() if layer.kind == "linear"]


def test_a_layer_by_torchao_is_the_layer_that_was_measured(quantized):
    stored = Checkpoint(quantized[1])
    tensors, header = torchao.flatten(stored, torch.float32)
    smoothed = [name for name in linears(stored) if stored.get(name, "pre_quant_scale") is not None]
    assert smoothed
    for name in (smoothed[0], linears(stored)[-1]):
        part = {key.rpartition("_weight_")[2]: tensor for key, tensor in tensors.items()
                if key.startswith(f"{name}._weight_")}  # fmt: skip
        assert sorted(part) == json.loads(header[f"{name}.weight"])["_tensor_data_names"]
        shape = torch.Size([2, 5, part["qdata"].shape[1]])
        inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        scaled = inputs * part["act_pre_scale"] / part["act_quant_scale"]
        whole = scaled.round().clamp(-128, 127).int() @ part["qdata"].int().T
        theirs = whole * part["act_quant_scale"] * part["scale"].flatten()

        amax, factors = stored.tensor(f"{name}.input_amax"), stored.get(name, "pre_quant_scale")
        seen = rounded(inputs * factors, amax, fp8=False)
        ours = functional.linear(seen, stored.weight(name, torch.float32))
        assert torch.allclose(theirs, ours, rtol=1e-4, atol=1e-4 * float(ours.abs().max()))


def test_the_header_names_every_tensor(quantized):
    stored = Checkpoint(quantized[1])
    tensors, header = torchao.flatten(stored, torch.float16)
    names = json.loads(header["tensor_names"])
    flat = {f"{name}.weight" for name in linears(stored)}
    assert flat < set(names) and set(names) == set(header) - {"tensor_names", "format"}
    assert {name for name in names if name not in flat} == {
        key for key in tensors if "._weight_" not in key
    }
    plain = [tensors[name].dtype for name in names if name not in flat]
    assert set(plain) == {torch.float16}


def test_the_folder_keeps_eight_bits_and_names_its_quantizer(quantized, tmp_path):
    config, checkpoint = quantized
    facts = diffusers_folder.write(config, {"checkpoint": checkpoint}, tmp_path, lambda _: None)
    told = json.loads((tmp_path / "unet/config.json").read_text())["quantization_config"]
    assert told["quant_method"] == "torchao" and facts["also_needs"] == ["torchao"]
    kind = told["quant_type"]["default"]["_type"]
    assert kind == "Int8StaticActivationInt8WeightConfig"
    assert any("convolutions" in line for line in facts["holds"])


@pytest.mark.parametrize("number", [Format.fp8, Format.int8_weight_only])
def test_weights_alone(load, tmp_path, number):
    words = [f"quant={number.value}", "quant_level=2.5", "calib_size=1"]
    made = build.prepare(load(*SMALL, *words[: 2 if number is Format.int8_weight_only else 3]))
    stored = Checkpoint(made.path)
    tensors, header = torchao.flatten(stored, torch.float32)
    name = linears(stored)[0]
    weight = tensors[f"{name}._weight_qdata"].float() * tensors[f"{name}._weight_scale"]
    assert torch.allclose(weight, stored.weight(name, torch.float32), rtol=1e-5)
    assert json.loads(header[f"{name}.weight"])["_data"]["act_quant_kwargs"] is None
