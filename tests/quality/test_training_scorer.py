"""`quality=mlperf_training`: the scores of MLPerf's training benchmark."""

from pathlib import Path

import numpy as np
import pytest

from sdxl.core.errors import ConfigError, UserError
from sdxl.core.types import Prompt
from sdxl.quality import clip, frechet, inception, mlperf_training, training_scorer
from tests.quality.test_full_scorer import CPU, pictures


def test_the_scores_are_those_of_their_own_networks(load, metric_files, training_files):
    config = load(*training_files)
    asked = [Prompt(n, f"{'cat ' * n}cap", n) for n in range(6)]
    scorer = mlperf_training.OPTION.open(config, asked)
    images = pictures(6)
    parts = [[3, 4, 5], [0, 1, 2]]
    told = [score for part in parts for score in scorer.add(part, images[part])["clip_h14"]]
    file = Path(config.quality.clip)
    network = clip.load(file, metric_files / "bpe.txt", False, CPU, clip.VIT_H_14)
    own = (network.pictures(images) * network.captions([p.text for p in asked])).sum(1)
    assert told == pytest.approx([*own[3:], *own[:3]], abs=1e-5)
    result = scorer.result()
    features = inception.load(metric_files / "inception.pth", CPU).features(images)
    moments = frechet.Moments(2048)
    moments.add(features)
    reference = frechet.read(metric_files / "statistics.npz", 2048)
    distance = frechet.distance(moments.statistics(), reference)
    assert result["metrics"] == {
        "clip_h14": pytest.approx(own.mean(), abs=1e-5), "fid_30k": pytest.approx(distance)
    }  # fmt: skip
    assert result["comparable"] is False
    for said in ("not the benchmark's", "6 pictures of builtin, not 30,000",
                 "not the published files: clip, vocabulary, inception"):  # fmt: skip
        assert said in result["comparable_reason"]


def test_files_of_the_inference_benchmark_are_refused(
    load, metric_files, training_files, monkeypatch
):
    other = load(*training_files, f"quality.clip={metric_files / 'clip.pt'}")
    with pytest.raises(UserError, match="no CLIP of open_clip's ViT-H/14"):
        mlperf_training.OPTION.open(other, [])
    published = lambda name, path: {"path": str(path), "sha256": "", "published": True}  # noqa: E731
    monkeypatch.setattr(training_scorer, "provenance", published)
    with pytest.raises(UserError, match="are those of the inference benchmark"):
        mlperf_training.OPTION.open(load(*training_files), [])


def test_what_is_absent_is_named_with_where_it_comes_from(load):
    found = mlperf_training.missing(load("quality=mlperf_training"))
    assert [each.what.split("`")[1] for each in found] == [
        f"quality.{name}" for name in ("clip", "vocabulary", "inception", "statistics")
    ]
    assert "laion/CLIP-ViT-H-14-laion2B-s32B-b79K" in found[0].fix
    assert "val2014_30k_stats.npz" in found[3].fix
    with pytest.raises(ConfigError, match="needs FID's reference statistics"):
        load("quality=mlperf_training", "quality.statistics=null")


def test_moments_of_parts_are_those_of_the_whole():
    features = np.random.default_rng(0).normal(3, 1, (50, 4))
    whole, merged = frechet.Moments(4), frechet.Moments(4)
    whole.add(features)
    for part in (features[::3], features[:0], features[1::3], features[2::3]):
        one = frechet.Moments(4)
        one.add(part)
        merged.merge(*one.state())
    assert merged.count == 50
    np.testing.assert_allclose(merged.statistics().sigma, whole.statistics().sigma, rtol=1e-13)
    np.testing.assert_allclose(merged.statistics().mu, features.mean(0), rtol=1e-13)
