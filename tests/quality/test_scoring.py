"""Which pictures reach a scorer, when, and how often."""

import numpy as np
import pytest

from sdxl.core.types import Prompt, Sample
from sdxl.quality import scoring as frame

PROMPTS = [Prompt(n, f"prompt {n}", n) for n in range(100)]


class Tally:
    """A scorer that writes down what it is given: the red value of each picture is its index."""

    def __init__(self):
        self.pieces, self.opened = [], 0

    def open(self, config, prompts):
        self.opened += 1
        return self

    def add(self, indices, images):
        assert images.dtype == np.uint8 and images.shape == (len(indices), 4, 4, 3)
        assert [int(image[0, 0, 0]) for image in images] == list(indices)
        self.pieces.append(list(indices))

    def result(self):
        return {"metrics": {"sum": sum(map(sum, self.pieces))}, "comparable": True}


@pytest.fixture
def tally(monkeypatch):
    made = Tally()
    monkeypatch.setattr(frame, "quality_of", lambda _config: made)
    return made


def batch(*indices):
    """Pictures of these indices, in one buffer that the generator will use again."""
    pictures = np.zeros((len(indices), 4, 4, 3), np.uint8)
    pictures += np.array(indices, np.uint8)[:, None, None, None]
    return [Sample(n, index) for n, index in enumerate(indices)], pictures


def test_accuracy_mode_scores_while_pictures_are_made_each_index_once(tally, load):
    scoring = frame.Scoring(load("mode=accuracy"), PROMPTS)
    scoring.begin()
    assert tally.opened == 1
    for start in range(0, 40, 8):
        samples, pictures = batch(*range(start, start + 8), start)
        scoring.take(samples, pictures)
        pictures[:] = 255  # reused for the next batch
    assert [len(piece) for piece in tally.pieces] == [16, 16]
    heard = []
    result = scoring.finish(heard.append)
    assert [index for piece in tally.pieces for index in piece] == list(range(40))
    assert result == {"by": "none", "images": 40, "metrics": {"sum": 780}, "comparable": True}
    assert heard == [40] and tally.opened == 1


def test_performance_mode_scores_nothing_before_the_test_is_over(tally, load, monkeypatch):
    monkeypatch.setattr(frame, "HELD_BYTES", 20 * 48)
    scoring = frame.Scoring(load(), PROMPTS)
    scoring.begin()
    for start in (0, 8, 0, 16, 24):
        scoring.take(*batch(*range(start, start + 8)))
    assert not tally.opened and not tally.pieces
    result = scoring.finish(lambda _: None)
    assert tally.pieces == [list(range(16)), list(range(16, 20))], (
        "the first that there is room for"
    )
    assert result["images"] == 20


def test_quality_none_holds_nothing(load):
    scoring = frame.Scoring(load(), PROMPTS)
    scoring.begin()
    scoring.take(*batch(1, 2))
    assert not scoring.wanted and not scoring._pictures
