"""`quality=full` and `quality=mlperf` from the command line to the record."""

import numpy as np
import pytest
import torch

from sdxl.core.errors import UserError
from sdxl.core.types import Prompt
from sdxl.model import images as images_of
from sdxl.quality import clip, frechet, full_scorer, inception, settings
from tests.conftest import ROOT

CPU = torch.device("cpu")


def words(folder, name="full"):
    """Settings that name the small networks' files."""
    return [
        f"quality={name}",
        f"quality.inception={folder / 'inception.pth'}",
        f"quality.clip={folder / 'clip.pt'}",
        f"quality.vocabulary={folder / 'bpe.txt'}",
        f"quality.statistics={folder / 'statistics.npz'}",
    ]


@pytest.fixture(scope="module")
def networks(metric_files):
    """The same networks, for a computation at once."""
    network = clip.load(metric_files / "clip.pt", metric_files / "bpe.txt", False, CPU)
    return network, inception.load(metric_files / "inception.pth", CPU)


def run(cli, *more):
    """A run's scores, and its pictures and captions from the files it left."""
    done = cli("backend=fake", "backend.sample_ms=0", "model.height=64", "model.width=64",
               "scenario.min_duration_ms=0", "limit=20", *more)  # fmt: skip
    assert done.code == 0, done.err
    images = np.stack([images_of.load(done.dir / one["file"]) for one in done.record["images"]])
    return done, images, [image["caption"] for image in done.record["images"]]


def pairs(networks, images, captions):
    """CLIP scores of every picture with every caption."""
    return 100 * networks[0].pictures(images) @ networks[0].captions(captions).T


def test_the_scores_of_an_accuracy_run_are_those_of_its_pictures(cli, metric_files, networks):
    done, images, captions = run(cli, "mode=accuracy", *words(metric_files))
    scores = done.record["quality"]["scores"]
    assert scores["by"] == "full" and scores["images"] == 20
    found = pairs(networks, images, captions)
    others = (found.sum() - found.trace()) / (20 * 19)
    assert scores["metrics"]["clip_score"] == pytest.approx(found.diagonal().mean(), abs=1e-3)
    assert scores["clip"]["unrelated"] == pytest.approx(others, abs=1e-3)
    features = np.concatenate([networks[1].features(image[None]) for image in images])
    sigma = np.cov(features.astype(np.float64), rowvar=False)
    ours = frechet.Statistics(features.mean(axis=0, dtype=np.float64), sigma)
    reference = frechet.read(metric_files / "statistics.npz", 2048)
    assert scores["metrics"]["fid"] == pytest.approx(frechet.distance(ours, reference), rel=1e-4)
    assert scores["comparable"] is False
    assert "20 pictures of builtin" in scores["comparable_reason"]
    assert "2048" in scores["comparable_reason"]
    assert "not the published files: clip, vocabulary, inception" in scores["comparable_reason"]
    assert done.record["durations"]["scoring_s"] > 0
    assert f"fid {scores['metrics']['fid']:,.5g}" in done.out


def test_a_performance_run_is_scored_after_the_clock(cli, metric_files, networks):
    more = ("quality.keep_images=20", "quality.statistics=null")
    done, images, captions = run(cli, *words(metric_files)[:-1], *more)
    scores = done.record["quality"]["scores"]
    own = pairs(networks, images, captions).diagonal().mean()
    assert scores["images"] == 20
    assert scores["metrics"] == {"clip_score": pytest.approx(own, abs=1e-3)}
    assert done.record["durations"]["scoring_s"] > done.record["durations"]["measure_s"]


def make(load, metric_files, *more, prompts=12):
    config = load("mode=accuracy", *words(metric_files), *more)
    return full_scorer.Official(config, [Prompt(n, f"{'cat ' * n}cap", n) for n in range(prompts)])


def pictures(count):
    return np.random.default_rng(5).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_the_order_and_the_pieces_of_pictures_change_nothing(load, metric_files):
    images, found = pictures(12), []
    for pieces in ([range(12)], [[7, 3], [0], [11, 1, 2, 4], [5, 6, 8, 9, 10]]):
        scorer = make(load, metric_files)
        for piece in pieces:
            scorer.add(list(piece), images[list(piece)])
        moments = scorer.moments.statistics()
        found.append((moments.mu, moments.sigma, [scorer.scores[index] for index in range(12)]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(one).max())


def test_without_statistics_there_is_only_the_clip_score(load, metric_files):
    scorer = make(load, metric_files, "quality.statistics=null")
    scorer.add([0], pictures(1))
    result = scorer.result()
    assert set(result["metrics"]) == {"clip_score"}
    assert "no FID" in result["comparable_reason"]


def judged(load, metric_files, monkeypatch, scores, unrelated, count=5000):
    """The reasons against scores that are given, with files that count as published."""
    scorer = make(load, metric_files, "quality.statistics=null", "dataset=coco")
    for facts in scorer.files.values():
        facts["published"] = True
    scorer.reference = object()
    found = {"unrelated": unrelated, "standard_error": 0.05}
    return scorer._reasons(count, scores, found)


def test_comparable_scores_and_those_that_are_not(load, metric_files, monkeypatch):
    judge = lambda *given, **more: judged(load, metric_files, monkeypatch, *given, **more)  # noqa: E731
    assert judge(31.7, 15.8) == []
    assert "4999 pictures of coco, not 5,000" in judge(31.7, 15.8, count=4999)[0]
    assert "mispaired" in judge(15.9, 15.8)[0], "what published short runs reported unnoticed"
    assert "mispaired" in judge(24.1, 24.0)[0], "no better than other prompts' captions"
    assert judge(24.5, 24.0) == []


def test_mispaired_captions_are_noticed(load, metric_files):
    """Pictures whose features are their captions': the score falls to `unrelated` if shuffled."""
    scorer = make(load, metric_files, "quality.statistics=null")
    texts = np.eye(12, 32, dtype=np.float32)
    order = {"right": np.arange(12), "shifted": np.roll(np.arange(12), 1)}
    reasons = {}
    for name, own in order.items():
        scorer.scores, scorer._sums = {}, []
        scorer.clip.captions = lambda asked: np.stack([texts[len(t.split()) - 1] for t in asked])
        scorer.clip.pictures = lambda images, own=own: texts[own[images[:, 0, 0, 0]]]
        images = (
            np.zeros((12, 8, 8, 3), np.uint8) + np.arange(12, dtype=np.uint8)[:, None, None, None]
        )
        scorer.add(list(range(12)), images)
        reasons[name] = scorer.result()["comparable_reason"]
    assert "mispaired" not in reasons["right"] and "mispaired" in reasons["shifted"]


def test_mlperf_takes_the_published_files_only(load, metric_files):
    config = load("mode=accuracy", *words(metric_files, "mlperf"))
    with pytest.raises(UserError, match=r"`quality\.clip` is not the file"):
        full_scorer.Official(config, [], published_only=True)


def test_settings_that_make_no_sense_are_refused(cli):
    done = cli("backend=fake", "quality=mlperf", "quality.statistics=null")
    assert done.code == 2
    assert "mode=accuracy" in done.err and "needs FID's reference statistics" in done.err
    assert "quality.statistics=store:metrics/val2014.npz" in done.err


def test_missing_files_are_named_before_anything_runs(cli):
    done = cli("backend=fake", "quality=full")
    assert done.code == 2
    for name in ("clip", "vocabulary", "inception", "statistics"):
        assert f"needs `quality.{name}`" in done.err
    assert "python -m sdxl download metrics" in done.err


def test_what_scores_is_part_of_the_measurement_not_of_the_artifact(load, metric_files, tmp_path):
    from sdxl.run.identity import artifact_key, identity

    (tmp_path / "other.txt").write_text("#v")
    one = load(*words(metric_files))
    other = load(*words(metric_files), f"quality.vocabulary={tmp_path / 'other.txt'}")
    assert identity(one) != identity(other)
    assert artifact_key(one) == artifact_key(other)


def test_the_catalogue_lists_every_default_file():
    from sdxl.model.download import catalogue
    from sdxl.quality import needs

    names = {file.path for file in catalogue.load()["metrics"].files}
    defaults = needs.files(settings.Full(name="full")).values()
    assert {value.removeprefix("store:") for value in defaults} == names
    assert (ROOT / "conf/quality/mlperf.yaml").is_file()
