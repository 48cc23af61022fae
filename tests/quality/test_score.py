"""`python -m sdxl score A B`: pictures from anywhere, in pairs by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from sdxl.quality import baseline, extra, frechet, inception, score

RANDOM = np.random.default_rng(0)
BASE = RANDOM.integers(20, 235, (8, 32, 48, 3)).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Eight pairs; A has noise, its endings are others, and each folder has one more picture."""
    for folder in "ab":
        (tmp_path / folder / "deep").mkdir(parents=True)
    for n, picture in enumerate(BASE):
        noise = RANDOM.integers(-n, n + 1, picture.shape)
        Image.fromarray((picture + noise).astype(np.uint8)).save(tmp_path / f"a/deep/{n}.bmp")
        Image.fromarray(picture).save(tmp_path / f"b/deep/{n}.png")
    Image.fromarray(BASE[0]).save(tmp_path / "a/mine.png")
    Image.fromarray(BASE[0]).save(tmp_path / "b/yours.png")
    return tmp_path / "a", tmp_path / "b"


def run(capsys, *words):
    code = score.main([str(word) for word in words])
    shown = capsys.readouterr()
    return code, json.loads(shown.out.splitlines()[-1]), shown


def test_psnr_and_ssim_are_those_of_the_record(folders, capsys):
    code, line, shown = run(capsys, *folders)
    pairs = [
        baseline.pair(picture, np.array(Image.open(folders[0] / f"deep/{n}.bmp")))
        for n, picture in enumerate(BASE)
    ]
    assert code == 0 and line["pairs"] == 8 and line["identical"] == 1
    ssim = [each["ssim"] for each in pairs]
    found = line["metrics"]["ssim"]
    assert found["mean"] == pytest.approx(np.mean(ssim)) and found["worst"] == min(ssim)
    assert found["low"] < found["mean"] < found["high"]
    assert line["metrics"]["psnr_db"]["worst"] == min(p["psnr_db"] for p in pairs if p["psnr_db"])
    assert line["worst_pair"] == "deep/7" and "worst: deep/7" in shown.out
    assert line["metrics"]["mean_deviation"]["higher_is_better"] is False
    assert (line["only_in_a"], line["only_in_b"]) == (["mine"], ["yours"])
    assert "not scored: mine" in shown.err and "not scored: yours" in shown.err
    assert line["sets"] == {} and line["a_minus_b"] == []


def test_a_folder_beside_itself_is_identical(folders, capsys):
    code, line, _ = run(capsys, folders[1], folders[1], "--json")
    assert code == 0 and line["identical"] == line["pairs"] == 9
    assert line["metrics"]["ssim"]["mean"] == pytest.approx(1)
    assert line["metrics"]["mean_deviation"]["mean"] == 0


def test_further_metrics_of_pairs_of_pictures_and_of_sets(folders, capsys, monkeypatch, tmp_path):
    """A metric of each kind; captions go by name, and judge both sides."""
    seen = {}

    def bright(_weights, _device):
        def measure(images, texts):
            seen.update(zip(texts, images.mean(axis=(1, 2, 3)), strict=True))
            return [*images.mean(axis=(1, 2, 3))]

        return measure

    def spread(_weights, _device):
        return extra.OfSet(lambda images: images.reshape(len(images), -1).astype(float),
                           lambda one, other: float(abs(one - other).max()))  # fmt: skip

    def largest(_weights, _device):
        return lambda a, b: [*np.abs(a.astype(int) - b).max(axis=(1, 2, 3)).astype(float)]

    known = {"bright": extra.Metric("single", True, bright),
             "largest": extra.Metric("paired", False, largest),
             "spread": extra.Metric("set", False, spread)}  # fmt: skip
    monkeypatch.setattr(extra, "metrics", lambda: known)
    table = tmp_path / "captions.tsv"
    table.write_text("id\tcaption\n" + "".join(f"deep/{n}\tscene {n}\n" for n in range(8)))
    code, line, shown = run(capsys, *folders, "--extra", *known, "--captions", table)
    assert code == 0, shown.err
    assert line["metrics"]["largest"]["worst"] == 7.0
    assert line["metrics"]["largest"]["higher_is_better"] is False
    (single,) = line["a_minus_b"]
    assert single["metric"] == "bright" and single["verdict"] == "equal"
    assert single["theirs"] == pytest.approx(BASE.mean(), abs=1e-6)
    assert line["sets"]["spread"] > 0
    assert seen["scene 3"] == pytest.approx(BASE[3].mean()), "B is seen last"
    assert "bright" in shown.out and "largest ↓" in shown.out
    lines = tmp_path / "captions.txt"
    lines.write_text("".join(f"line {n}\n" for n in range(9)))  # mine.png is the ninth of A
    code, *_ = run(capsys, *folders, "--extra", "bright", "--captions", lines)
    assert code == 0 and seen["line 3"] == pytest.approx(BASE[3].mean())
    lines.write_text("one\n")
    code, line, _ = run(capsys, *folders, "--extra", "bright", "--captions", lines)
    assert code == 2 and "1 and 9" in line["reason"]


def test_fid_is_the_frechet_distance_of_both_folders(folders, capsys, monkeypatch, tmp_path):
    class Small:
        def features(self, images):
            return images.reshape(len(images), -1)[:, : inception.FEATURES] / 255

    monkeypatch.setattr(inception, "load", lambda _path, _device: Small())
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"x")
    _, line, _ = run(capsys, *folders, "--inception", weights)
    sides = [frechet.Moments(inception.FEATURES) for _ in range(2)]
    for n, picture in enumerate(BASE):
        mine = np.array(Image.open(folders[0] / f"deep/{n}.bmp"))
        for moments, each in zip(sides, (mine, picture), strict=True):
            moments.add(Small().features(each[None]))
    expected = frechet.distance(*(each.statistics() for each in sides))
    assert line["sets"] == {"fid": pytest.approx(expected, rel=1e-6)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--extra", "lpipz"], "did you mean `lpips`"),
        (["--extra", "pickscore"], "--captions FILE"),
        (["--extra", "lpips"], "--weights lpips:PATH"),
        (["--captions", "x.txt"], "--captions would be ignored"),
        (["--weights", "lpips:x"], "--weights lpips would be ignored"),
        (["--inception", "nowhere.pth"], "python -m sdxl download metrics"),
    ],
)
def test_what_is_missing_or_ignored_is_refused(folders, capsys, words, said, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    code, line, shown = run(capsys, *folders, *words)
    assert code == 2 and line["exit_code"] == 2
    assert said in " ".join(shown.err.replace("│", " ").split())


def test_folders_that_cannot_be_paired_are_refused(folders, capsys, tmp_path):
    def reason(*places):
        code, line, _ = run(capsys, *places)
        assert code == 2
        return line["reason"]

    a, b = folders
    assert "no such folder" in reason(a, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "has no pictures" in reason(a, tmp_path / "empty")
    assert "no picture of one folder" in reason(a / "deep", b)
    Image.fromarray(BASE[0]).save(a / "deep/0.png")
    assert "two pictures of one name" in reason(a, b)
    (a / "deep/0.bmp").unlink()
    Image.fromarray(BASE[0, :16]).save(a / "deep/0.png")
    assert "`deep/0` differ in size" in reason(a, b) and "48 x 16 and 48 x 32" in reason(a, b)
    (a / "deep/0.png").write_bytes(b"no picture")
    assert "cannot be read" in reason(a, b)
