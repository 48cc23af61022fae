"""Rows of shards: layouts that others write, and samples that are not what they look like."""

import io
import json
import re
import tarfile

import numpy as np
import pytest
import torch

from sdxl.config.load import load as checked
from sdxl.core.errors import UserError
from sdxl.model import components
from sdxl.training.data import encoder, sharded, shards
from tests.training.test_shards import vae_of


@pytest.fixture
def config(composed):
    words = ("train=finetune", "model=tiny_random", "model.height=64", "model.width=64")
    return lambda: checked(composed(*words, name="train"))


def test_a_shard_that_others_published_is_read(config, tmp_path):
    moments = np.random.default_rng(0).standard_normal((1, 8, 8, 8)).astype(np.float32)
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        parts = {"npy": encoder.npy(moments), "txt": b"a red cube",
                 "json": json.dumps({"url": "x", "caption": "another"}).encode()}  # fmt: skip
        for name, content in parts.items():
            shards._add(tar, f"000000001.{name}", content)
    read = sharded.Shards(config(), str(tmp_path))
    latents, hidden, _, sizes = read.rows(np.array([0]))
    factor = vae_of(config()).config.scaling_factor
    assert torch.allclose(latents[0], torch.from_numpy(moments[0, :4]) * factor)
    assert hidden.shape[1] == 77 and sizes.tolist() == [[64, 64, 0, 0, 64, 64]]
    assert read.texts(np.array([0])) == ["a red cube"]


LATENTS = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)


def of_version(major, array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, (major, 0))
    return file.getvalue()


def moments(*shape):
    return {"txt": b"a", "latents.npy": None, "npy": encoder.npy(np.zeros(shape, np.float32))}


@pytest.fixture
def others(config, tmp_path):
    """Opens a shard of one sample with LATENTS and the parts that are given."""

    def opened(**parts):
        with tarfile.open(tmp_path / "000.tar", "w") as tar:
            for name, content in {"latents.npy": encoder.npy(LATENTS[0]), **parts}.items():
                if content is not None:
                    shards._add(tar, f"7.{name}", content)
        return sharded.Shards(config(), str(tmp_path))

    return opened


@pytest.mark.parametrize(
    "parts",
    [
        {"latents.npy": encoder.npy(LATENTS), "txt": b"a red cube"},
        {"TXT": b"a red cube"},
        {"txt": b"\xef\xbb\xbfa red cube\r\n"},
        {"latents.npy": encoder.npy(np.asfortranarray(LATENTS[0])), "txt": b"a red cube"},
        {"latents.npy": encoder.npy(LATENTS[0].astype(">f8")), "txt": b"a red cube"},
        {"latents.npy": of_version(2, LATENTS[0]) + b"more", "txt": b"a red cube"},
    ],
    ids=[
        "a batch of one",
        "capital letters",
        "a mark of UTF-8",
        "columns first",
        "big-endian",
        "a later version",
    ],
)
def test_layouts_that_leave_no_doubt_are_read(others, parts):
    read = others(**parts)
    assert torch.equal(read.rows(np.array([0]))[0], torch.from_numpy(LATENTS))
    assert read.texts(np.array([0])) == ["a red cube"]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"json": b'{"caption": ["a", "b"]}'}, r'a caption that is no text(.|\n)*\["a", "b"\]'),
        ({"txt": "caf\u00e9".encode("latin-1")}, r"cannot be read(.|\n)*0xe9(.|\n)*text in UTF-8"),
        ({"json": b'{"url": "x"}'}, "has no caption"),
        ({"txt": b"a", "latents.npy": encoder.npy(np.repeat(LATENTS, 2, 0))}, "another size"),
        (moments(2, 8, 8, 8), "another size"),
        (moments(1, 6, 8, 8), "another size"),
        (moments(), "cannot be read"),
        ({"txt": b"a", "latents.npy": encoder.npy(LATENTS)[:-1]}, "cannot be read"),
        ({"txt": b"a", "latents.npy": b"\x93NUMPY\x01\x00"}, "cannot be read"),
    ],
    ids=[
        "captions in a list",
        "latin-1",
        "no caption",
        "a batch of two",
        "moments of two",
        "moments of six",
        "one number",
        "a cut array",
        "a cut header",
    ],
)
def test_a_sample_that_would_be_misread_is_named(others, parts, said):
    with pytest.raises(UserError, match="sample `7`") as caught:
        others(**parts).rows(np.array([0]))
    assert re.search(said, str(caught.value))


def test_a_step_may_have_latents_beside_moments(config, tmp_path):
    kept = np.random.default_rng(2).standard_normal((8, 8, 8)).astype(np.float32)
    with tarfile.open(tmp_path / "000.tar", "w") as tar:
        for number, parts in enumerate(({"npy": kept}, {"latents.npy": LATENTS}, {"npy": kept})):
            for name, array in parts.items():
                shards._add(tar, f"{number}.{name}", encoder.npy(array))
            shards._add(tar, f"{number}.txt", b"a")
    read, noise = sharded.Shards(config(), str(tmp_path)), torch.randn(3, 4, 8, 8)
    found = read.rows(np.arange(3), noise)[0]
    vae, whole = vae_of(config()).config, torch.from_numpy(kept)[None]
    assert torch.equal(found[1], torch.from_numpy(LATENTS[0]))
    for place in (0, 2):
        by_hand = components.of_moments(whole, noise[place : place + 1], vae)[0]
        assert torch.equal(found[place], by_hand)
