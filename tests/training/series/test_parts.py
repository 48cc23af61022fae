"""Scores of parts: shares that miss nothing, sums that do not depend on them."""

import numpy as np
import pytest

from sdxl.quality.frechet import Moments
from sdxl.training.series import parts
from sdxl.training.series.parts import Tally

RNG = np.random.default_rng(0)
FEATURES, COSINES = RNG.normal(2, 1, (30, 3)), RNG.random(30)


def reference():
    moments = Moments(3)
    moments.add(RNG.normal(0, 1, (40, 3)))
    return moments.statistics()


def tally(numbers):
    found = Tally.empty(3)
    found.add(numbers, FEATURES[numbers], COSINES[numbers])
    return found


@pytest.mark.parametrize("world", [1, 2, 3, 7, 31])
def test_every_prompt_has_one_process(world, tmp_path):
    done = {4, 9}
    shares = [parts.share(30, done, rank, world) for rank in range(world)]
    assert sorted(number for share in shares for number in share) == [
        n for n in range(30) if n not in done
    ]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    tally(sorted(done)).write(tmp_path / "part-0.npz")
    for rank, share in enumerate(shares):
        tally(share).write(tmp_path / f"part-{rank + 1}.npz")
    real, whole = reference(), parts.read(tmp_path, 3)
    alone = tally(list(range(30))).scores(real)
    found = whole.scores(real)
    assert found["CLIP"] == alone["CLIP"], "to the last digit"
    assert found["FID"] == pytest.approx(alone["FID"], rel=1e-12)


def test_a_part_that_is_damaged_or_repeats_a_prompt_is_drawn_again(tmp_path):
    tally([0, 1, 2]).write(tmp_path / "part-a.npz")
    tally([2, 3]).write(tmp_path / "part-b.npz")
    (tmp_path / "part-c.npz").write_bytes((tmp_path / "part-b.npz").read_bytes()[:200])
    assert sorted(parts.read(tmp_path, 3).cosines) == [0, 1, 2]
    assert parts.read(tmp_path, 4).cosines == {}, "of other features"
