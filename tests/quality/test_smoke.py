"""`quality=smoke`: published bounds for 100 prompts, for what they hold, what they are not."""

import pytest

from sdxl.core.errors import ConfigError
from sdxl.core.record import Scores
from sdxl.core.types import Looks
from sdxl.quality import full_scorer, smoke

WORDS = ("model=sdxl", "dataset=coco", "limit=100", "mode=accuracy", "quality=smoke")


@pytest.mark.parametrize(
    ("clip", "fid", "passed"),
    [
        (31.7467, 183.2, [True, True]),
        (31.705, 182.79, [True, True]),
        (32.096, 183.95, [False, True]),
        (31.704, 183.96, [False, False]),
    ],
)
def test_each_score_has_its_bounds_and_its_margin(clip, fid, passed):
    found = smoke.rows({"clip_score": clip, "fid": fid})
    assert [each["pass"] for each in found] == passed
    assert all((each["margin"][0] == "+") == each["pass"] for each in found)
    assert {each["scope"] for each in found} == {"smoke"}


def test_it_never_claims_to_be_mlperfs(monkeypatch):
    measured = {"metrics": {"clip_score": 31.75, "fid": 183.0}, "comparable": True}
    monkeypatch.setattr(full_scorer.Official, "result", lambda _: {**measured})
    scorer = smoke.Gated(object.__new__(full_scorer.Official))
    assert isinstance(scorer, Looks)
    found = Scores.from_json(scorer.result())
    assert not found.comparable and "not MLPerf's verdict" in found.comparable_reason
    assert [gate.passed for gate in found.gates] == [True, True]


def test_other_settings_have_no_bounds(load):
    load(*WORDS)
    for word in ("limit=64", "model=tiny", "dataset=builtin", "seed=1", "rules=open",
                 "mode=performance"):  # fmt: skip
        key = word.split("=")[0]
        kept = [each for each in WORDS if each.split("=")[0] != key]
        with pytest.raises(ConfigError, match=f"has bounds for {key}="):
            load(*kept, word)
    with pytest.raises(ConfigError, match="reference statistics"):
        load(*WORDS, "quality.statistics=null")
