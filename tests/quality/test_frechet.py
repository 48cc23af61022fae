"""Streaming statistics equal numpy's on everything at once; the distance equals closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdxl.core.errors import UserError
from sdxl.quality import frechet
from sdxl.quality.frechet import Moments, Statistics, distance


def of(features, sizes=None):
    moments = Moments(features.shape[1])
    for piece in np.split(features, np.cumsum(sizes)[:-1]) if sizes else [features]:
        moments.add(piece)
    return moments.statistics()


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=20).filter(lambda s: sum(s) > 1),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_streaming_equals_batch(sizes, offset):
    features = offset + np.random.default_rng(sum(sizes)).standard_normal((sum(sizes), 24))
    found = of(features, sizes)
    sigma = np.cov(features, rowvar=False)
    np.testing.assert_allclose(found.mu, features.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.sigma, sigma, rtol=0, atol=1e-9 * np.abs(sigma).max())


def test_streaming_survives_what_sums_of_squares_do_not():
    """Features far from zero: E[x^2] - E[x]^2 loses every digit, the update loses none."""
    features = 1e6 + np.random.default_rng(0).standard_normal((500, 8))
    found = of(features, [7] * 71 + [3]).sigma
    exact = np.cov(features, rowvar=False)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-9 * exact.max())
    naive = (features.T @ features - 500 * np.outer(features.mean(0), features.mean(0))) / 499
    assert np.abs(naive - exact).max() > 1e-5


def test_an_interrupted_addition_changes_nothing(monkeypatch):
    features = np.random.default_rng(0).standard_normal((20, 8))
    moments = Moments(8)
    moments.add(features[:10])
    before = [np.copy(part) for part in moments.state()]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np, "outer", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        moments.add(features[10:])
    assert all(map(np.array_equal, moments.state(), before))
    moments.add(features[10:])
    np.testing.assert_allclose(moments.statistics().sigma, np.cov(features, rowvar=False))


def test_one_feature_has_no_covariance():
    with pytest.raises(ValueError, match="two features"):
        of(np.zeros((1, 3)))


def random_covariance(rng, width, rank=None):
    a = rng.standard_normal((width, rank or 2 * width))
    return a @ a.T / a.shape[1]


def test_distance_of_gaussians_in_closed_form():
    rng = np.random.default_rng(0)
    one, two = rng.random(50) + 0.1, rng.random(50) + 0.1
    mu = rng.standard_normal(50)
    q, _ = np.linalg.qr(rng.standard_normal((50, 50)))  # commuting covariances
    ours = Statistics(mu, q @ np.diag(one) @ q.T)
    reference = Statistics(np.zeros(50), q @ np.diag(two) @ q.T)
    exact = mu @ mu + ((np.sqrt(one) - np.sqrt(two)) ** 2).sum()
    assert distance(ours, reference) == pytest.approx(exact, rel=1e-10)
    # Two dimensions, not commuting: tr (S1 S2)^(1/2) = sqrt(tr(S1 S2) + 2 sqrt(det S1 S2)).
    s1, s2 = random_covariance(rng, 2), random_covariance(rng, 2)
    root = np.sqrt(np.trace(s1 @ s2) + 2 * np.sqrt(np.linalg.det(s1) * np.linalg.det(s2)))
    exact = np.trace(s1 + s2) - 2 * root
    zero = np.zeros(2)
    assert distance(Statistics(zero, s1), Statistics(zero, s2)) == pytest.approx(exact, rel=1e-9)


def test_distance_is_pytorch_fids_where_that_is_well_conditioned():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    a, b = (Statistics(rng.random(64), random_covariance(rng, 64)) for _ in range(2))
    off, root = a.mu - b.mu, sqrtm(a.sigma @ b.sigma).real
    theirs = off @ off + np.trace(a.sigma) + np.trace(b.sigma) - 2 * np.trace(root)
    assert distance(a, b) == pytest.approx(theirs, rel=1e-9)


def test_distance_of_a_set_to_itself_is_zero_even_if_singular():
    rng = np.random.default_rng(2)
    few = Statistics(rng.random(64), random_covariance(rng, 64, rank=5))
    assert abs(distance(few, few)) < 1e-9
    other = Statistics(few.mu + 1, few.sigma)
    assert distance(few, other) == pytest.approx(64, rel=1e-9)
    assert distance(other, few) == pytest.approx(distance(few, other), rel=1e-9)


def test_statistics_go_to_a_file_and_back(tmp_path):
    rng = np.random.default_rng(3)
    written = Statistics(rng.random(8), random_covariance(rng, 8))
    frechet.write(tmp_path / "s.npz", written)
    found = frechet.read(tmp_path / "s.npz", 8)
    assert np.array_equal(found.mu, written.mu) and np.array_equal(found.sigma, written.sigma)
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(8)}, "holds no statistics"),
        ({"mu": np.zeros(7), "sigma": np.eye(7)}, "other features"),
        ({"mu": np.full(8, np.nan), "sigma": np.eye(8)}, "NaN"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, arrays, message):
    path = tmp_path / "s.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message):
        frechet.read(path, 8)
    with pytest.raises(UserError, match="no statistics"):
        frechet.read(tmp_path / "missing.npz", 8)


@pytest.mark.parametrize("spoil", [lambda whole: whole[: len(whole) // 2], lambda _: b"no zip"])
def test_half_a_file_is_named(tmp_path, spoil):
    path = tmp_path / "half.npz"
    np.savez(path, mu=np.zeros(8), sigma=np.eye(8))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match=r"half\.npz holds no statistics"):
        frechet.read(path, 8)
    np.save(tmp_path / "one.npy", np.zeros(8))
    (tmp_path / "one.npy").rename(path)
    with pytest.raises(UserError, match="no statistics"):
        frechet.read(path, 8)
