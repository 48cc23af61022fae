"""Shards: moments as they are published, tars of pictures, shares, and a killed run."""

import dataclasses
import io
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from sdxl.config.load import load as checked
from sdxl.core import store
from sdxl.core.errors import SdxlError, UserError
from sdxl.model import components
from sdxl.model.images import save
from sdxl.model.scenes import render, world
from sdxl.model.sources import open_source
from sdxl.quality.scenes.networks import to_tensor
from sdxl.training import loop
from sdxl.training.ahead import Ahead
from sdxl.training.data import sharded, shards, tar_index, tars
from sdxl.training.data.shards import Asked
from sdxl.training.stages import finetune

COUNT = 20
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(COUNT):
        save(render.picture(world.training_scene(0, number)), folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text(f"caption {number}\n")
    return folder


@pytest.fixture
def config(composed):
    words = ("train=finetune", "model=tiny_random", "model.height=64", "model.width=64",
             "tracking=off", "train.batch=2", "train.steps=3", "train.warmup_steps=1")  # fmt: skip
    return lambda *more: checked(composed(*words, *more, name="train"))


def vae_of(config):
    return open_source(config.model, 0).component("vae", torch.float32, CPU)


@pytest.fixture(scope="module")
def written(pictures, tmp_path_factory, composed):
    """Moments of all pictures, and embeddings, in three tars."""
    words = ("train=finetune", "model=tiny_random", "model.height=64", "model.width=64")
    given = checked(composed(*words, name="train"))
    out = tmp_path_factory.mktemp("moments")
    made = shards.write(given, pictures, out, Asked(8, embeddings=True, moments=True))
    assert made == {"samples": COUNT, "without_caption": 0, "shards": 3, "kept": 0}
    return out


def test_a_sample_with_embeddings_whose_facts_have_no_caption_is_named(
    config, written, monkeypatch
):
    read = sharded.Shards(config(), str(written))
    plain = read._read
    monkeypatch.setattr(read, "_read", lambda sample, *_: {**plain(sample), "caption": None})
    assert len(read.rows(np.array([0]))) == 4, "embeddings need none"
    with pytest.raises(UserError, match="sample `00000000` has no caption"):
        read.texts(np.array([0]))


def test_moments_are_in_the_published_layout_and_come_back(config, written):
    vae = vae_of(config())
    with tarfile.open(written / "000001.tar") as tar:
        names = tar.getnames()
        moments = np.load(io.BytesIO(tar.extractfile("00000009.npy").read()))
        text = tar.extractfile("00000009.txt").read()
    assert {"00000009.npy", "00000009.txt", "00000009.json"} <= {*names}
    assert moments.shape == (1, 8, 8, 8) and moments.dtype == np.float32
    assert text == b"caption 9"
    pixels = to_tensor(render.picture(world.training_scene(0, 9))[None])
    with torch.inference_mode():
        drawn = vae.encode(pixels).latent_dist
    assert np.allclose(moments, drawn.parameters.numpy(), atol=1e-4)

    read = sharded.Shards(config(), str(written))
    assert read.moments and read.embedded
    latents, *_ = read.rows(np.array([9]))
    assert torch.allclose(latents, components.scale(drawn.mean, vae.config), atol=1e-4)
    noise = torch.randn(1, 4, 8, 8)
    other, *_ = read.rows(np.array([9]), noise)
    by_hand = components.scale(drawn.mean + drawn.std * noise, vae.config)
    assert torch.allclose(other, by_hand, atol=1e-4)
    bare, texts = read.told(np.array([9]), noise)
    assert torch.equal(bare, other) and texts == ["caption 9"]
    assert "hidden.npy" not in read._checked(read.samples[9], embeddings=False)


def test_a_killed_run_goes_on_with_the_next_tar_and_each_process_has_its_share(
    config, pictures, tmp_path, monkeypatch
):
    given, asked = config(), Asked(8)
    whole = tmp_path / "whole"
    shards.write(given, pictures, whole, asked)
    add, seen = shards._add, []

    def killed(tar, name, content):
        seen.append(name)
        if name.startswith("00000012"):
            raise KeyboardInterrupt
        add(tar, name, content)

    out = tmp_path / "out"
    monkeypatch.setattr(shards, "_add", killed)
    with pytest.raises(KeyboardInterrupt):
        shards.write(given, pictures, out, asked)
    assert sorted(file.name for file in out.glob("*.tar")) == ["000000.tar"]
    monkeypatch.setattr(shards, "_add", add)
    before = (out / "000000.tar").stat().st_mtime_ns
    assert shards.write(given, pictures, out, asked)["kept"] == 1
    assert (out / "000000.tar").stat().st_mtime_ns == before

    parts = tmp_path / "parts"
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        shards.write(given, pictures, parts, asked)
        assert len(list(parts.glob("*.tar"))) == (2, 3)[rank]
    for folder in (out, parts):
        for tar in whole.glob("*.tar"):
            assert (folder / tar.name).read_bytes() == tar.read_bytes()


def test_two_commands_into_one_folder_write_each_tar_once(config, pictures, tmp_path, monkeypatch):
    made, write, out = [], shards._write, tmp_path / "out"
    monkeypatch.setattr(shards, "_write", lambda *each: (made.append(each[1].name), write(*each)))
    with ThreadPoolExecutor() as both:
        given = config()
        ends = both.map(lambda _: shards.write(given, pictures, out, Asked(8)), range(2))
        assert sum(end["kept"] for end in ends) == 3
    assert sorted(made) == ["000000.tar", "000001.tar", "000002.tar"]


def test_shards_of_other_settings_that_come_meanwhile_are_an_error(
    config, pictures, tmp_path, monkeypatch
):
    write, out = shards._write, tmp_path / "out"

    def overtaken(*each):
        monkeypatch.setattr(shards, "_write", write)
        write(*each)
        shards.write(config(), pictures, out, Asked(8, moments=True))

    monkeypatch.setattr(shards, "_write", overtaken)
    monkeypatch.setattr(shards.locks, "held", lambda *_: nullcontext())
    with pytest.raises(SdxlError, match="another command wrote shards of other") as caught:
        shards.write(config(), pictures, out, Asked(8))
    assert caught.value.problems[0].got == "000000.tar"


def test_a_store_that_cannot_be_written_is_named_and_not_the_folder_of_shards(
    config, pictures, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SDXL_STORE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="file cannot be written") as caught:
        shards.write(config(), pictures, tmp_path / "out", Asked(8))
    assert "SDXL_STORE" in caught.value.problems[0].fix


def test_tars_of_pictures_become_tars_of_the_same_names(config, pictures, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    for shard in range(2):
        with tarfile.open(source / f"{shard:05d}.tar", "w") as tar:
            for number in range(3 * shard, 3 * shard + 3):
                picture = (pictures / f"{number:03d}.png").read_bytes()
                shards._add(tar, f"{number:09d}.png", picture)
                if number != 4:
                    shards._add(tar, f"{number:09d}.txt", b"a caption")
    out, seen, print_of = tmp_path / "out", [], store.fingerprint
    monkeypatch.setattr(store, "fingerprint", lambda *path: seen.append(*path) or print_of(*path))
    made = shards.write(config(), source, out)
    assert sorted(path.name for path in seen if path.suffix == ".tar") == ["00000.tar", "00001.tar"]
    assert made == {"samples": 5, "without_caption": 1, "shards": 2, "kept": 0}
    assert sorted(file.name for file in out.glob("*.tar")) == ["00000.tar", "00001.tar"]
    read = sharded.Shards(config(), str(out))
    names = [sample.name for sample in read.samples]
    assert names == [f"{number:09d}" for number in (0, 1, 2, 3, 5)]
    pixels = to_tensor(render.picture(world.training_scene(0, 5))[None])
    with torch.inference_mode():
        latents = components.encode(vae_of(config()), pixels)
    assert torch.allclose(read.rows(np.array([4]))[0], latents, atol=1e-4)
    other = shutil.copytree(source, tmp_path / "other")
    with pytest.raises(UserError, match="tars of one name") as caught:
        shards.write(config(), tmp_path / "{source,other}/00000.tar", tmp_path / "again")
    assert caught.value.problems[0].fix in (
        f"python -m sdxl shards {folder} OUT" for folder in (source, other)
    )
    (other / "00000.tar").rename(other / "a.tar")
    with pytest.raises(UserError, match=r"source/00001\.tar .*other/00001\.tar"):
        shards.write(config(), tmp_path / "{source,other}", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    braces = shards.write(config(), source / "{00000..00001}.tar", tmp_path / "again")
    assert braces["samples"] == 5
    with tarfile.open(source / "00002.tar", "w") as tar:
        shards._add(tar, "a.txt", b"alone")
    with pytest.raises(UserError, match="has 0 pictures"):
        shards.write(config(), source, tmp_path / "third")


def test_the_index_beside_a_tar_is_of_that_tar_only(written, tmp_path):
    tar = tmp_path / "000000.tar"
    tar.write_bytes((written / tar.name).read_bytes())
    assert tar_index.read(written / tar.name) is not None and tar_index.read(tar) is None
    scanned = tars.index(0, tar)
    assert tars.index(0, written / tar.name) == scanned
    tar_index.write(tar, "key", [(s.name, s.parts) for s in scanned])
    assert tars.index(0, tar) == scanned and tar_index.made_of(tar) == "key"
    tar_index.beside(tar).write_text("{")
    assert tars.index(0, tar) == scanned and tar_index.made_of(tar) is None


def test_latents_are_drawn_anew_each_step_and_a_training_goes_on_to_the_bit(
    config, written, tmp_path
):
    given = config(f"train.shards={written}")
    stage = finetune.Stage(given)
    assert stage.reads_ahead
    one, other = (
        stage.batch(loop.Batch(step, np.array([3]), slice(0, 1), 2, 0), CPU) for step in (0, 1)
    )
    assert not torch.equal(one["latents"], other["latents"])
    assert torch.allclose(one["latents"], other["latents"], atol=8.0)

    def losses(folder, **changes):
        settings = dataclasses.replace(given.train, **changes)
        seen = []
        loop.train(finetune.Stage(given), settings, 0, folder,
                   lambda kind, _, f, __: kind == "step" and seen.append(f["loss"]))  # fmt: skip
        return seen

    whole = losses(tmp_path / "whole")
    parts = losses(tmp_path / "parts", max_s=0.0) + losses(tmp_path / "parts")
    assert parts == whole and len(whole) == 3


@pytest.mark.parametrize("threaded", [False, True])
def test_rows_come_in_order_and_a_failure_where_it_belongs(threaded):
    def get(number):
        if number == 3:
            raise ValueError("spoilt")
        return number

    ahead = Ahead(get, iter(range(5)), threaded)
    assert [ahead.take() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="spoilt"):
        ahead.take()
    ahead.close()
