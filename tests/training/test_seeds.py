"""The seed of a benchmark's training: random, kept, and not lost to a seed that is refused."""

from types import SimpleNamespace

import pytest

from sdxl.config.load import load as checked
from sdxl.training import loop, seeds


@pytest.fixture
def settled(composed, tmp_path):
    """Words of a command -> the seed that it trains with."""
    chosen = SimpleNamespace(folder_of=lambda _config: tmp_path / "run")

    def settle(*words):
        given = ("train=sd2_mlperf", "model=tiny", *words)
        config = checked(composed(*given, name="train"))
        seeds.settle(config, chosen, words)
        return config.seed

    return settle


def test_a_random_seed_is_kept_until_another_is_typed_or_the_training_begins_anew(settled):
    first = settled()
    assert settled() == first
    assert settled("seed=7") == settled() == 7
    assert settled("train.restart=true") != 7


def test_a_seed_typed_beside_a_checkpoint_of_another_does_not_take_its_place(settled, tmp_path):
    first = settled()
    (tmp_path / "run" / loop.FILE).touch()
    assert settled("seed=7") == 7  # which the checkpoint refuses
    assert settled() == first
    assert settled("seed=7", "train.restart=true") == settled() == 7
