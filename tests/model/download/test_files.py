"""The published files as they are, and latents from the files people have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdxl.core.errors import OK, USER
from sdxl.model import caption_files, latents
from sdxl.model.download import catalogue, command


@pytest.mark.parametrize("what", ["coco", "calibration", "latents"])
@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
def test_the_real_files_are_accepted(shared, root, capsys, what, folder):
    file = catalogue.load()[what].files[0]
    source = shared if folder else shared / file.name
    assert command.main([what, "--from", str(source)]) == OK
    assert json.loads(capsys.readouterr().out)["files"][0]["state"] == "copied"
    assert file.target.read_bytes() == (shared / file.name).read_bytes()
    rows = {"coco": 5000, "calibration": 500}
    if what in rows:
        assert len(caption_files.read_tsv(file.target)) == rows[what]


def test_the_latent_is_mlperfs_to_the_bit(shared):
    real = np.load(shared / "latents.npy")
    assert np.array_equal(latents.mlperf().view(np.uint32), real.view(np.uint32))


def test_the_latent_has_the_published_checksum():
    expected = catalogue.load()["latents"].files[0].values_sha256
    assert latents.values_sha256(latents.mlperf()) == expected
    assert latents.values_sha256(latents.mlperf(seed=1)) != expected


def test_latents_from_pt(root, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.save(torch.from_numpy(latents.mlperf()), tmp_path / "latents.pt")
    assert command.main(["latents", "--from", str(tmp_path)]) == OK
    assert np.array_equal(np.load(root / "latents/latents.npy"), latents.mlperf())
    assert json.loads(capsys.readouterr().out)["files"][0]["state"] == "copied"


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: np.save(path, np.zeros((1, 4, 64, 64), np.float32)), "(1, 4, 64, 64)"),
        (lambda path: np.save(path, np.zeros(latents.SHAPE, np.float32)), "values_sha256"),
        (lambda path: path.write_bytes(b"not an array"), "is not a latent"),
    ],
    ids=["shape", "values", "format"],
)
def test_wrong_latents(root, tmp_path, capsys, write, said):
    write(tmp_path / "mine.npy")
    assert command.main(["latents", "--from", str(tmp_path / "mine.npy")]) == USER
    assert said in capsys.readouterr().err


def test_latents_run_no_code(root, tmp_path, capsys):
    torch = pytest.importorskip("torch")

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save(Evil(), tmp_path / "latents.pt")
    assert command.main(["latents", "--from", str(tmp_path / "latents.pt")]) == USER
    assert "is not a latent" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
