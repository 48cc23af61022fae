"""A LoRA of our own: as diffusers and PEFT read it, as `model.lora` fuses it, resumed exactly."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdxl.config.load import load as checked
from sdxl.core.errors import UserError
from sdxl.model.sources import open_source
from sdxl.quant import build
from sdxl.training import adapters, loop
from sdxl.training.stages import fake_quant, lora, qat
from tests.training.test_qat import inputs

CPU = torch.device("cpu")
FILE = "pytorch_lora_weights.safetensors"
SMALL = ("model=tiny", "model.height=64", "model.width=64", "train.scenes=20", "train.batch=2",
         "train.steps=3", "train.warmup_steps=1", "train.lr=0.01", "train.rank=2",
         "tracking=off")  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def config(composed, store, monkeypatch):
    monkeypatch.setenv("SDXL_STORE", str(store))
    return lambda *words: checked(composed("train=lora", *SMALL, *words, name="train"))


def trained(given, folder, **changes):
    given = dataclasses.replace(given, train=dataclasses.replace(given.train, **changes))
    stage = lora.Stage(given)
    seen = []
    loop.train(stage, given.train, 0, folder,
               lambda kind, _, f, __: kind == "step" and seen.append(f["loss"]),
               stage.identity)  # fmt: skip
    return seen, stage


def unet_of(given, **changes):
    model = dataclasses.replace(given.model, **changes)
    return open_source(model, 0).component("unet", torch.float32, CPU)


@torch.no_grad()
def predicted(unet, given):
    return qat.predict(unet, **inputs(given))


@torch.no_grad()
def assert_close(one, other):
    assert float((one - other).abs().max()) < 1e-5 * float(other.abs().max())


def test_adapter_fused_diffusers_and_peft_are_one(config, tmp_path):
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    given = config("train.alpha=3", "train.targets=[attn2,conv1,proj_in]", "train.ema=0")
    seen, stage = trained(given, tmp_path)
    assert len(set(seen)) == 3
    ours = predicted(stage.module.unet, given)
    plain = predicted(unet_of(given), given)
    assert float((ours - plain).abs().max()) > 0.05, "the LoRA has learnt something"

    made = tmp_path / "model"
    assert_close(predicted(unet_of(given, lora=str(made)), given), ours)

    kept = load_file(made / FILE)
    assert all(name.startswith("unet.") for name in kept)
    layers = {name.split(".lora_")[0].removeprefix("unet.") for name in kept}
    theirs = unet_of(given)
    settings = LoraConfig(r=2, lora_alpha=2, target_modules=sorted(layers))
    inject_adapter_in_model(settings, theirs)
    left = set_peft_model_state_dict(theirs, {k.removeprefix("unet."): v for k, v in kept.items()})
    assert not left.unexpected_keys
    assert_close(predicted(theirs, given), ours)

    loaded = unet_of(given)
    loaded.load_lora_adapter(kept, prefix="unet")
    assert_close(predicted(loaded, given), ours)


def test_it_is_killed_and_resumed_to_the_bit_and_keeps_only_what_moves(config, tmp_path):
    given = config()
    whole, one = trained(given, tmp_path / "whole")
    first, _ = trained(given, tmp_path / "parts", max_s=0.0)
    rest, other = trained(given, tmp_path / "parts")
    assert first + rest == whole and len(first) == 1
    for a, b in zip(one.module.parameters(), other.module.parameters(), strict=True):
        assert torch.equal(a, b)
    files = [load_file(tmp_path / part / "model" / FILE) for part in ("whole", "parts")]
    assert all(torch.equal(value, files[1][name]) for name, value in files[0].items())
    kept = load_file(tmp_path / "whole" / loop.FILE)
    assert kept and all("lora_" in name for name in kept)


def test_text_encoders_learn_and_a_pipeline_of_diffusers_draws_with_it(config, tmp_path):
    from diffusers import StableDiffusionXLPipeline

    from sdxl.core.paths import BUNDLED

    given = config("train.text_encoders=true", "train.steps=2", "train.ema=0")
    seen, stage = trained(given, tmp_path)
    assert len(seen) == 2
    made = tmp_path / "model"
    asked = dataclasses.replace(given.model, lora=str(made))
    pipe = StableDiffusionXLPipeline.from_pretrained(BUNDLED, add_watermarker=False)
    pipe.load_lora_weights(made)
    pipe.fuse_lora(["unet", "text_encoder", "text_encoder_2"])
    for name in ("text_encoder", "text_encoder_2"):
        fused = open_source(asked, 0).component(name, torch.float32, CPU)
        before = open_source(given.model, 0).component(name, torch.float32, CPU)
        ids = torch.arange(5, 82)[None]
        own, plain, theirs, ours = (
            network(ids, output_hidden_states=True).hidden_states[-2]
            for network in (fused, before, getattr(pipe, name), stage.networks[name])
        )
        assert not torch.allclose(own, plain, atol=1e-4)
        assert_close(own, ours)
        assert_close(theirs, ours)


@pytest.mark.parametrize("words", [["quant=int8", "quant_level=3", "calib_size=1"],
                                   ["quant=fp8", "quant_level=4", "calib_size=1"]],
                         ids=["int8", "fp8"])  # fmt: skip
def test_beside_a_quantized_unet_it_begins_as_the_checkpoint(config, tmp_path, words):
    given = config(*words, "model.steps=2", "rules=open", "train.steps=1")
    stage = lora.Stage(given)
    student = fake_quant.student(unet_of(given), build.prepare(given).path)
    assert_close(predicted(stage.module.unet, given), predicted(student, given))
    trained_now = [name for name, p in stage.module.named_parameters() if p.requires_grad]
    assert trained_now and all("lora_" in name for name in trained_now)
    batch = stage.batch(loop.Batch(0, loop.rows_of(0, 2, stage.count, 0), slice(0, 2), 2, 0), CPU)
    stage.module(**batch)["loss"].backward()
    upper = [p for name, p in stage.module.named_parameters() if "lora_B" in name]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in upper)


def test_mistakes_are_named(config):
    unet = open_source(config().model, 0).component("unet", torch.float32, torch.device("meta"))
    for targets, said in (([], "no layer"), (["to_x"], "found in no layer"), (["("], "\\(: ")):
        with pytest.raises(UserError, match=said):
            adapters.layers(unet, targets)
    with pytest.raises(UserError, match="takes no LoRA"):
        lora.folder_of(config("model=tiny_random"))
    assert len(adapters.layers(unet, ["attn1.to_q"])) == sum(
        name.endswith("attn1.to_q") for name, _ in unet.named_modules()
    )


@pytest.mark.slow
def test_one_line_quantizes_it_fused_and_measures_it_beside_its_baseline(cli, tmp_path):
    plan = cli("train=lora", "model=sdxl_random", "model.device=meta", "plan=true",
               script="train.py")  # fmt: skip
    assert plan.code == 0, plan.err
    assert plan.json["plan"]["layers"] == 560 and plan.json["plan"]["parameters"] == 23_224_320
    made = cli("train=lora", *SMALL, script="train.py")
    assert made.code == 0, made.err
    words = made.json["measure"].split()[2:]
    given = ("limit=2", "calib_size=1", "model.steps=2", "model.height=64", "model.width=64",
             "tracking=off")  # fmt: skip
    done = cli(*words, *given, timeout=300)
    assert done.code == 0, done.err
    record = json.loads(Path(done.json["record"]).read_text())
    assert record["config"]["model"]["lora"] == made.json["lora"]
    pairs = {each["metric"]: each for each in record["quality"]["baseline"]["paired"]}
    base = json.loads((done.dir / "baseline" / "record.json").read_text())
    assert base["config"]["model"]["lora"] == made.json["lora"]
    assert base["config"]["quant"]["format"] == "none" and pairs
