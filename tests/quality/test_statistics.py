"""The command that makes FID's reference statistics."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from sdxl.core import ends
from sdxl.quality import frechet, inception, statistics

COUNT = 7


@pytest.fixture
def folder(tmp_path):
    """Images of several sizes and modes in two folders, and a file that is none."""
    rng = np.random.default_rng(0)
    root = tmp_path / "images"
    (root / "more").mkdir(parents=True)
    for number in range(COUNT):
        size = (40 + number, 32) if number % 2 else (24, 56)
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        picture = Image.fromarray(pixels).convert("L" if number == 3 else "RGB")
        picture.save(root / ("more" if number > 4 else "") / f"{number}.png")
    (root / "captions.txt").write_text("no image")
    return root


def test_statistics_are_those_of_all_features_at_once(folder, tmp_path, metric_files, capsys):
    out = tmp_path / "new" / "out.npz"
    weights = metric_files / "inception.pth"
    words = [str(folder), str(out), "--inception", str(weights), "--device", "cpu"]
    assert statistics.main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == COUNT
    network = inception.load(weights, torch.device("cpu"))
    pictures = [np.array(Image.open(path).convert("RGB")) for path in sorted(folder.rglob("*.png"))]
    features = np.concatenate([network.features(each[None]) for each in pictures])
    found = frechet.read(out, 2048)
    sigma = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(found.mu, features.mean(axis=0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(found.sigma, sigma, rtol=0, atol=1e-9 * np.abs(sigma).max())
    assert [path.name for path in out.parent.iterdir()] == ["out.npz"]


def test_an_interrupted_run_goes_on_and_ends_the_same(
    folder, tmp_path, metric_files, capsys, monkeypatch
):
    weights = metric_files / "inception.pth"
    words = [str(folder), str(tmp_path / "out.npz"), "--inception", str(weights)]
    real, seen = inception.Inception.features, []

    def stopping(network, images):
        if len(seen) == 4:
            monkeypatch.setattr(ends, "_came", True)  # as after a signal
            raise KeyboardInterrupt
        seen.append(images)
        return real(network, images)

    monkeypatch.setattr(statistics, "MERGED", 3)
    monkeypatch.setattr(inception.Inception, "features", stopping)
    assert statistics.main(words) == 1
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["reason"] == "interrupted; the same command goes on from here"
    monkeypatch.setattr(inception.Inception, "features", real)
    last, partial = max(folder.rglob("*.png")), tmp_path / ".out.npz.partial.npz"
    left, then = partial.read_bytes(), last.stat().st_mtime_ns
    os.utime(last, ns=(then, then + 1))  # another picture of the same name
    assert statistics.main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["resumed_at"] == 0
    os.utime(last, ns=(then, then))
    partial.write_bytes(left)
    assert statistics.main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["resumed_at"] == 3
    whole = [str(folder), str(tmp_path / "whole.npz"), "--inception", str(weights)]
    assert statistics.main(whole) == 0
    one, other = (frechet.read(tmp_path / name, 2048) for name in ("out.npz", "whole.npz"))
    assert np.array_equal(one.mu, other.mu) and np.array_equal(one.sigma, other.sigma)
    Image.new("RGB", (8, 8)).save(folder / "new.png")  # another folder: nothing to go on from
    assert statistics.main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["resumed_at"] == 0


def test_mistakes_are_named(folder, tmp_path, metric_files, capsys):
    weights = ["--inception", str(metric_files / "inception.pth")]
    assert statistics.main([str(tmp_path / "none"), str(tmp_path / "o.npz"), *weights]) == 2
    assert "too few images" in capsys.readouterr().err
    assert statistics.main([str(folder), str(tmp_path / "o.npz")]) == 2
    assert "python -m sdxl download metrics" in capsys.readouterr().err
    (folder / "broken.png").write_bytes(b"no image")
    assert statistics.main([str(folder), str(tmp_path / "o.npz"), *weights]) == 2
    assert "broken.png" in capsys.readouterr().err
