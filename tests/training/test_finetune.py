"""Fine-tuning on shards: written by the model's own networks, read anywhere, resumed exactly."""

import dataclasses
import json
import random
import shutil
import tarfile

import numpy as np
import pytest
import torch

from sdxl.config.choices import Prediction
from sdxl.config.load import load as checked
from sdxl.core.errors import UserError
from sdxl.model import networks, prompts
from sdxl.model.images import load, save
from sdxl.model.scenes import captions, render, world
from sdxl.model.sources import open_source
from sdxl.quality.scenes.networks import to_tensor
from sdxl.training import loop
from sdxl.training.data import embed, sharded, shards
from sdxl.training.data.encoder import npy
from sdxl.training.data.shards import Asked
from sdxl.training.stages import finetune

COUNT = 22
SMALL = ("model=tiny_random", "model.height=64", "model.width=64", "tracking=off")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twenty-two pictures of 80 x 64 with captions, and one without."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(COUNT):
        scene = world.training_scene(0, number)
        picture = np.pad(render.picture(scene), ((8, 8), (0, 0), (0, 0)), mode="edge")
        save(picture, folder / f"{number:03d}.png")
        text = captions.describe(scene, random.Random(number)).text
        (folder / f"{number:03d}.txt").write_text(text + "\n")
    save(picture, folder / "without.png")
    return folder


@pytest.fixture
def config(composed):
    def make(*words):
        base = ("train=finetune", "train.steps=4", "train.batch=2", "train.warmup_steps=1")
        return checked(composed(*base, *SMALL, *words, name="train"))

    return make


@pytest.fixture
def written(config, pictures, tmp_path):
    for name, embeddings in (("plain", False), ("whole", True)):
        made = shards.write(config(), pictures, tmp_path / name, Asked(8, embeddings))
        assert made["samples"] == COUNT and made["without_caption"] == 1
    assert len(list((tmp_path / "plain").glob("*.tar"))) == 3
    return tmp_path


def test_shards_hold_what_the_models_networks_make(config, pictures, written):
    given = config()
    plain, whole = (sharded.Shards(given, str(written / name)) for name in ("plain", "whole"))
    rows = np.array([19, 3, 3])
    latents, hidden, pooled, sizes = plain.rows(rows)
    assert latents.shape == (3, 4, 8, 8) and torch.equal(latents[1], latents[2])
    assert sizes[0].tolist() == [80, 64, 8, 0, 64, 64]
    again = whole.rows(rows)
    assert torch.equal(again[0], latents)
    assert torch.allclose(again[1], hidden, atol=2e-3) and torch.allclose(
        again[2], pooled, atol=2e-3
    )

    source = open_source(given.model, given.seed)
    vae = source.component("vae", torch.float32, CPU)
    picture = render.picture(world.training_scene(0, 19))[None]
    with torch.inference_mode():
        mean = vae.encode(to_tensor(picture)).latent_dist.mean * vae.config.scaling_factor
    assert torch.allclose(latents[0], mean[0], atol=1e-5)
    text = (pictures / "019.txt").read_text().strip()
    ids = prompts.tokenize([text], source.tokenizers())
    made = networks.encode(*embed.text_encoders(source, CPU), ids, torch.float32)
    assert torch.allclose(hidden[0], made.hidden[0], atol=1e-5)


def trained(given, folder, **changes):
    """The losses of a training with other settings."""
    changed = dataclasses.replace(given, train=dataclasses.replace(given.train, **changes))
    stage = finetune.Stage(changed)
    seen = []
    loop.train(stage, changed.train, 0, folder,
               lambda kind, _, f, __: kind == "step" and seen.append(f["loss"]),
               stage.identity)  # fmt: skip
    return seen


def test_blocks_that_compute_again_on_the_way_back_train_alike(config, written, tmp_path):
    given = config(f"train.shards={written / 'plain'}")
    plain = trained(given, tmp_path / "plain")
    less = trained(given, tmp_path / "less", gradient_checkpointing=True)
    assert less == pytest.approx(plain, rel=1e-5)
    assert len(set(plain)) == 4


def test_a_training_on_shards_resumes_to_the_bit_and_its_unet_is_used(config, written, tmp_path):
    given = config(f"train.shards={written / 'plain'}")

    def train(folder, **changes):
        return trained(given, folder, **changes)

    whole = train(tmp_path / "one")
    assert train(tmp_path / "two", max_s=0.0) + train(tmp_path / "two") == whole
    assert len(whole) == 4
    told = config(f"train.shards={written / 'plain'}", "model.negative_prompt=blurry")
    with pytest.raises(UserError, match="other settings: unconditional") as caught:
        trained(told, tmp_path / "two")
    problem = caught.value.problems[0]
    assert problem.got == "unconditional ['', 'blurry'] (model.negative_prompt)"
    with pytest.raises(UserError, match="data"):
        (written / "plain" / "000001.tar").rename(written / "plain" / "000009.tar")
        train(tmp_path / "two")

    made = tmp_path / "one" / "model"
    tuned = config(f"model.unet={made}")
    source = open_source(tuned.model, 0)
    unet = source.component("unet", torch.float32, CPU)
    start = open_source(given.model, 0).component("unet", torch.float32, CPU)
    moved = [
        not torch.equal(a, b) for a, b in zip(unet.parameters(), start.parameters(), strict=True)
    ]
    assert np.mean(moved) > 0.9
    assert source.identity() != open_source(given.model, 0).identity()
    meta = source.component("unet", torch.float16, torch.device("meta"))
    assert sum(p.numel() for p in meta.parameters()) == sum(p.numel() for p in unet.parameters())
    with pytest.raises(UserError, match="holds no UNet"):
        open_source(config(f"model.unet={tmp_path}").model, 0)


def test_shards_of_an_earlier_set_are_not_mixed_in(config, pictures, written, tmp_path):
    with pytest.raises(UserError, match=r"other shards"):
        shards.write(config(), pictures, written / "plain", Asked(16))
    again = shards.write(config(), pictures, written / "plain", Asked(8))
    assert again["samples"] == COUNT and again["kept"] == 3, "the same again"


def test_the_command_names_mistakes(monkeypatch, capsys, tmp_path):
    for words, said in (
        ([str(tmp_path), str(tmp_path / "out")], "no pictures with captions"),
        ([str(tmp_path), str(tmp_path / "out"), "model=tinny"], "no option `tinny`"),
    ):
        monkeypatch.setattr("sys.argv", ["shards", *words])
        assert shards.main() == 2
        out, err = capsys.readouterr()
        assert said in err and json.loads(out)["status"] == "failed"


def test_the_loss_is_of_noise_by_the_models_own_schedule(config, monkeypatch):
    from diffusers import EulerDiscreteScheduler

    from sdxl.model import architecture
    from sdxl.model.seeded import RandomSource

    def given(**changes):
        scheduler = EulerDiscreteScheduler(**{**architecture.SCHEDULER, **changes})
        monkeypatch.setattr(RandomSource, "scheduler", lambda _: scheduler)
        return finetune.Stage(config("train.scenes=18", "train.size=64")), scheduler

    stage, scheduler = given(beta_end=0.02)
    assert torch.equal(stage.module.alphas, scheduler.alphas_cumprod)
    usual = given()[0]
    assert {k for k, v in stage.identity.items() if usual.identity[k] != v} == {"schedule"}
    assert stage.module.prediction is Prediction.epsilon
    other, _ = given(prediction_type="v_prediction")
    assert other.module.prediction is Prediction.v_prediction
    with pytest.raises(UserError, match="no loss for models that predict the picture"):
        given(prediction_type="sample")


def test_spoilt_shards_are_named(config, written, tmp_path):
    with pytest.raises(UserError, match="another size"):
        given = config(f"train.shards={written / 'plain'}", "model.height=128", "train.size=64")
        sharded.Shards(given, given.train.shards).rows(np.array([0]))
    with pytest.raises(UserError, match="no shards"):
        sharded.Shards(config(), str(tmp_path))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "0.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        sharded.Shards(config(), str(broken))
    with tarfile.open(broken / "0.tar", "w:") as tar:
        shards._add(tar, "a.json", json.dumps({"caption": "x"}).encode())
    with pytest.raises(UserError, match="has no latents"):
        sharded.Shards(config(), str(broken))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"json": None}, "has no caption"),
        ({"json": b"{"}, "sample `a` cannot be read"),
        ({"json": b"[]"}, "sample `a` cannot be read"),
        ({"json": b'{"caption": "x", "crop": [0]}'}, "other sizes than SDXL is told"),
        ({"txt": b"\xff"}, "sample `a` cannot be read"),
        ({"latents.npy": b"half"}, "sample `a` cannot be read"),
        ({"latents.npy": npy(np.zeros(3))}, "another size"),
        ({"latents.npy": npy(np.full((4, 8, 8), np.nan))}, "latents that are no numbers"),
        ({"json": b'{"caption": ["a", "b"]}'}, "has a caption that is no text"),
        ({"hidden.npy": npy(np.zeros((77, 5)))}, None),  # no pooled.npy: the caption counts
        ({"hidden.npy": npy(np.zeros((77, 5))), "pooled.npy": npy(np.zeros(5))},
         "another model's hidden.npy"),
    ],
)  # fmt: skip
def test_a_spoilt_sample_is_named(config, tmp_path, changes, said):
    parts = {"latents.npy": npy(np.zeros((4, 8, 8))), "json": b'{"caption": "a cube"}'}
    with tarfile.open(tmp_path / "0.tar", "w:") as tar:
        for name, content in {**parts, **changes}.items():
            if content is not None:
                shards._add(tar, f"a.{name}", content)
    if said is None:
        rows = sharded.Shards(config(), str(tmp_path)).rows
        assert rows(np.array([0]))[1].shape[1] == 77
        return
    with pytest.raises(UserError, match=said):
        sharded.Shards(config(), str(tmp_path)).rows(np.array([0]))


def test_other_pictures_in_shards_of_the_same_size_are_other_data(config, pictures, tmp_path):
    shards.write(config(), pictures, tmp_path / "out", Asked(8))
    before = sharded.Shards(config(), str(tmp_path / "out")).identity
    turned = shutil.copytree(pictures, tmp_path / "turned")
    for file in turned.glob("*.png"):
        save(np.ascontiguousarray(load(file)[:, ::-1]), file)
    shards.write(config(), turned, tmp_path / "out", Asked(8))
    after = sharded.Shards(config(), str(tmp_path / "out")).identity
    assert [name for name, _ in after] == [name for name, _ in before]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_a_picture_that_cannot_be_read_is_named_and_leaves_nothing(config, pictures, tmp_path):
    spoilt = shutil.copytree(pictures, tmp_path / "spoilt")
    (spoilt / "003.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"003\.png cannot be read"):
        shards.write(config(), spoilt, tmp_path / "out", Asked(8))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_plan_of_real_sdxl_needs_no_weights(cli):
    done = cli("train=finetune", "model=sdxl_random", "model.device=meta", "plan=true",
               script="train.py")  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["plan"]["parameters"] == 2_567_463_684
    assert done.json["plan"]["state_gib"] == pytest.approx(47.82, abs=0.01)
    little = ("train=finetune", *SMALL, "train.steps=1", "train.batch=2", "train.scenes=18")
    made = cli(*little, script="train.py")
    assert made.code == 0, made.err
    plan = cli(*little, "plan=true", script="train.py").json["plan"]
    assert plan["steps_done"] == 1 and plan["folder"] == made.json["folder"]
    wrong = cli("train=finetune", "quant=int8", *SMALL, script="train.py")
    assert wrong.code == 2 and "train=qat" in wrong.err
