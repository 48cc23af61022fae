"""`model.lora`: one path or many, each with its scale."""

from pathlib import Path

import pytest

from sdxl.config import loras
from sdxl.config.choices import Format
from sdxl.core.errors import ConfigError
from sdxl.run import identity

SDXL = ("model=sdxl", "rules=open")


def asked(load, *words):
    return [(str(x.path), x.scale) for x in loras.of(load(*SDXL, *words).model)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (["model.lora=a.safetensors"], [("a.safetensors", 1.0)]),
        (["model.lora=a.safetensors", "model.lora_scale=0.5"], [("a.safetensors", 0.5)]),
        (["model.lora=a@-1e-1"], [("a", -0.1)]),
        (["model.lora=a@2.safetensors"], [("a@2.safetensors", 1.0)]),
        (["model.lora=a@2@1"], [("a@2", 1.0)]),
        (["model.lora=[a.safetensors,dir/b@0.7]", "model.lora_scale=2"],
         [("a.safetensors", 2.0), ("dir/b", 0.7)]),
    ],
)  # fmt: skip
def test_each_has_its_own_scale_or_the_default(load, words, expected):
    assert asked(load, *words) == expected


def test_a_store_path(load, monkeypatch):
    monkeypatch.setenv("SDXL_STORE", "/store")
    (found,) = loras.of(load(*SDXL, "model.lora=[store:lora/x.safetensors@.5]").model)
    assert found == loras.Lora(Path("/store/lora/x.safetensors"), 0.5)


@pytest.mark.parametrize("given", ["5", "[]", "[a,3]", "''", "{a:1}", "true"])
def test_other_things_are_refused(load, given):
    with pytest.raises(ConfigError, match="names files or folders"):
        load(*SDXL, f"model.lora={given}")


@pytest.mark.parametrize("given", [[], ["model.lora=[a@1,b@2]"], ["model.lora=a@1"]])
def test_a_default_scale_that_nobody_takes(load, given):
    with pytest.raises(ConfigError, match=r"`model\.lora_scale` would be ignored"):
        load(*SDXL, "model.lora_scale=0.5", *given)


def test_the_record_says_whether_quantization_saw_it(load):
    model = load(*SDXL, "model.lora=[a@2,dir/b]").model
    names = [{"name": "a", "scale": 2.0}, {"name": "b", "scale": 1.0}]
    assert loras.describe(model, Format.none) == {"lora": names, "lora_fused_into": "the weights"}
    quantized = loras.describe(model, Format.int8)
    assert quantized["lora_fused_into"] == "the weights before quantization"
    assert loras.describe(load().model, Format.int8) == {}


def test_what_a_file_holds_is_in_the_key_and_the_old_form_keeps_its_key(load, tmp_path):
    one, two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    one.write_bytes(b"1"), two.write_bytes(b"2")
    single = load(*SDXL, f"model.lora={one}")
    assert set(identity._files(single)) & {"model.lora", "model.lora.0"} == {"model.lora"}
    both = load(*SDXL, f"model.lora=[{one},{two}]")
    before = identity.identity(both)
    two.write_bytes(b"3")
    assert identity.identity(both) != before
