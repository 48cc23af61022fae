"""Quantization-aware training: starts from the checkpoint, resumes exactly, runs as trained."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sdxl.backends.torch import simulated
from sdxl.config.load import load as checked
from sdxl.core.errors import UserError
from sdxl.model.checkpoint import Checkpoint
from sdxl.model.sources import open_source
from sdxl.quant import build
from sdxl.training import loop
from sdxl.training.speed import step_flop
from sdxl.training.stages import fake_quant, qat

SMALL = (
    "model=tiny_random",
    "model.height=64",
    "model.width=64",
    "train.scenes=72",
    "train.batch=8",
    "train.steps=6",
    "train.warmup_steps=1",
    "model.steps=4",
    "rules=open",
    "tracking=off",
)


@pytest.fixture(scope="module")
def world_of(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def config(composed, world_of, monkeypatch):
    monkeypatch.setenv("SDXL_STORE", str(world_of))

    def make(*words, name="train"):
        given = SMALL if name == "train" else [w for w in SMALL if not w.startswith("train.")]
        stage = ["train=qat"] if name == "train" else []
        return checked(composed(*stage, *given, *words, name=name))

    return make


def inputs(config):
    torch.manual_seed(0)
    shapes = open_source(config.model, 0).configs["unet"]
    wide = shapes["projection_class_embeddings_input_dim"] - 6 * shapes["addition_time_embed_dim"]
    return {
        "noisy": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([500, 20]),
        "hidden": torch.randn(2, 77, shapes["cross_attention_dim"]),
        "pooled": torch.randn(2, wide),
        "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2),
    }


def plain(config, device="cpu"):
    return open_source(config.model, 0).component("unet", torch.float32, torch.device(device))


def restored(config, folder):
    cpu = torch.device("cpu")
    return simulated.restore(plain(config, "meta"), folder, torch.float32, cpu)


@pytest.mark.parametrize(
    "words",
    [
        ["quant=int8", "quant_level=3", "calib_size=1"],
        ["quant=int4_weight_only"],
        ["quant=fp8", "quant_level=4", "calib_size=1"],
    ],
    ids=["int8", "int4", "fp8"],
)
def test_before_training_it_is_the_checkpoint_to_the_bit(config, words):
    given = config(*words)
    made = build.prepare(given)
    student = fake_quant.student(plain(given), made.path)
    stored = Checkpoint(made.path)
    for name, layer in fake_quant.layers(student).items():
        assert torch.equal(layer.codes().view(torch.uint8),
                           stored.tensor(f"{name}.weight").view(torch.uint8)), name  # fmt: skip
    x = inputs(given)
    with torch.no_grad():
        ours = qat.predict(student, **x)
        theirs = qat.predict(restored(given, made.path), **x)
    assert torch.allclose(ours, theirs, atol=1e-5)
    qat.predict(student, **x).square().mean().backward()
    assert all(layer.weight.grad is not None for layer in fake_quant.layers(student).values())
    ranges = [n for n, _ in student.named_buffers() if n.endswith(("q_amax", "softmax_amax"))]
    attention = sum(layer.kind == "attention" for layer in stored.layers.values())
    assert len(ranges) == 2 * attention, "they go to the device with the layer, once"
    assert not any(name.endswith("q_amax") for name in student.state_dict())
    trained = {n for n, p in student.named_parameters() if p.requires_grad}
    assert trained == {f"{name}.weight" for name in fake_quant.layers(student)}


def test_no_gradient_comes_from_outside_of_the_range():
    values = torch.tensor([0.5, 1.5, -2.0], requires_grad=True)
    found = fake_quant.straight(values, torch.tensor(1.0), fp8=False)
    assert found.tolist() == pytest.approx([64 / 127, 1.0, -128 / 127])
    found.sum().backward()
    assert values.grad.tolist() == [1.0, 0.0, 0.0]


def trained(given, folder, **changes):
    given = dataclasses.replace(given, train=dataclasses.replace(given.train, **changes))
    stage = qat.Stage(given)
    seen = []
    figures = loop.train(stage, given.train, 0, folder,
                         lambda kind, _, f, __: seen.append(f["loss"]) if kind == "step" else None,
                         stage.identity)  # fmt: skip
    return seen, figures, stage


def test_it_comes_closer_to_the_baseline_resumes_to_the_bit_and_runs_as_trained(config, tmp_path):
    given = config("quant=int4_weight_only", "train.lr=0.0001", "train.ema=0.5", "train.steps=8")
    whole, figures, stage = trained(given, tmp_path / "whole")
    assert figures["gone"] > 0.1, "the distance to the baseline shrinks on rows held back"
    first, *_ = trained(given, tmp_path / "parts", max_s=0.0)
    rest, again, _ = trained(given, tmp_path / "parts")
    assert first + rest == whole and len(first) == 1
    assert again["distance"] == figures["distance"]

    folder = tmp_path / "whole" / "model"
    words = ["quant=int4_weight_only", f"quant.tuned={folder}"]
    asked = config(*words, name="run")
    made = build.prepare(asked)
    assert made.manifest.parents == [stage.identity["checkpoint"]]
    x = inputs(given)
    with torch.no_grad(), loop.Averaged(stage.module, average_of(tmp_path / "whole")):
        assert torch.allclose(
            qat.predict(restored(asked, made.path), **x),
            qat.predict(stage.module.unet, **x),
            atol=1e-5,
        )
    untuned = build.prepare(config("quant=int4_weight_only", name="run"))
    assert untuned.manifest.key == stage.identity["checkpoint"] != made.manifest.key

    with pytest.raises(UserError, match="another checkpoint"):
        build.prepare(config(*words, "quant.block_size=32", name="run"))
    with pytest.raises(UserError, match="no trained checkpoint"):
        build.prepare(config(words[0], f"quant.tuned={made.path}", name="run"))
    changed = build.prepare(config("quant=int4_weight_only", "quant.block_size=32"))
    stage.identity = {**stage.identity, "checkpoint": changed.manifest.key}
    with pytest.raises(UserError, match="checkpoint"):
        loop.train(stage, given.train, 0, tmp_path / "parts", print, stage.identity)


def average_of(folder):
    from sdxl.training import checkpoint

    return checkpoint.averaged(folder / loop.FILE)


def test_half_of_the_rows_are_under_the_negative_prompt(config):
    given = config("quant=int4_weight_only")
    stage = qat.Stage(given)
    batch = loop.Batch(0, np.arange(8), slice(0, 8), 8, 0)
    made = stage.batch(batch, torch.device("cpu"))
    negative = stage.examples.none[0][1]
    under = [torch.equal(row, negative) for row in made["hidden"]]
    assert 0 < sum(under) < 8
    assert set(made["timestep"].tolist()) <= set(stage.timesteps.tolist())
    for name, word in (
        ("timesteps", "model.steps=3"),
        ("unconditional", "model.negative_prompt=x"),
    ):
        other = qat.Stage(config("quant=int4_weight_only", word)).identity
        assert other["checkpoint"] == stage.identity["checkpoint"]
        assert other[name] != stage.identity[name], "no going on with it"


def test_the_baseline_is_a_part_of_the_step_and_none_of_what_learns(config):
    stage = qat.Stage(config("quant=int4_weight_only"))
    seen = []
    stage.baseline.conv_out.register_forward_hook(lambda *found: seen.append(found[-1].dtype))
    batch = loop.Batch(0, np.arange(2), slice(0, 2), 2, 0)
    given = stage.batch(batch, torch.device("cpu"))
    assert not seen, "what is made ready is counted as waiting for data"
    with torch.autocast("cpu", torch.bfloat16):
        stage.module(**given)["loss"].backward()
    assert seen == [torch.bfloat16]
    assert all(p.grad is None for p in stage.baseline.parameters())
    own, other = ({*map(id, m.parameters())} for m in (stage.module, stage.baseline))
    assert not own & other and len(own) == len(other)

    def flop(call):
        with FlopCounterMode(display=False) as counter:
            call(**given)
        return counter.get_total_flops()

    ahead = flop(stage.module.target)
    assert step_flop(stage.module, given) > ahead + flop(partial(qat.predict, stage.module.unet))


def test_mistakes_are_named(cli):
    none = cli("train=qat", *SMALL[:3], script="train.py")
    assert none.code == 2 and "not quantized" in none.err
    ignored = cli("quant.tuned=folder")
    assert ignored.code == 2 and "quant.tuned" in ignored.err
