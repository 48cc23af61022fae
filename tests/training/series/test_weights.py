"""The weights that a training keeps: when, where, and those that are none of it."""

import dataclasses

import pytest

from sdxl.core.errors import UserError
from sdxl.training import loop
from sdxl.training.series import weights
from tests.training.test_loop import Stage, settings


@pytest.mark.parametrize(("batch", "steps"), [(256, [2000, 4000]), (384, [1334, 2668])])
def test_the_samples_of_a_grid_are_rounded_up_to_whole_steps(batch, steps):
    assert [n for n in range(1, 4001) if weights.due(n, 512_000, batch)][:2] == steps
    assert not weights.due(2000, None, 256)


def test_a_training_keeps_its_weights_also_when_it_goes_on(tmp_path):
    told = []
    report = lambda kind, samples, *_: told.append((kind, samples))  # noqa: E731
    given = settings(steps=7, batch=4, keep_every=6, evaluate_every=10**9)  # every second step
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    loop.train(Stage(), given, 0, whole, report)
    assert [samples for kind, samples in told if kind == "kept"] == [8, 16, 24]
    loop.train(Stage(), dataclasses.replace(given, steps=5), 0, parts, report)
    weights.begin(parts, {"stage": "x", "words": [], "parts": None}, 3)  # as if killed after it
    assert [kept.step for kept in weights.found(parts)[0]] == [2]
    (parts / loop.FILE).unlink()
    loop.train(Stage(), given, 0, parts, report)
    series, facts = weights.found(parts)
    assert [(kept.step, kept.samples) for kept in series] == [(2, 8), (4, 16), (6, 24)]
    assert facts == {"stage": "x", "words": [], "parts": None}
    for kept in series:
        files = sorted(file.name for file in kept.folder.iterdir())
        assert files, "the stage's own export"
        for name in files:
            other = whole / weights.FOLDER / kept.folder.name / name
            assert (kept.folder / name).read_bytes() == other.read_bytes()


def test_a_training_that_kept_none_is_named(tmp_path):
    with pytest.raises(UserError, match=r"train\.keep_every"):
        weights.found(tmp_path)
    weights.begin(tmp_path, {"stage": "x", "words": [], "parts": None}, 0)
    with pytest.raises(UserError, match="no weights in"):
        weights.found(tmp_path)
