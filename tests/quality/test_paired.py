"""Figures in pairs: intervals that cover, verdicts that hold, what would tell two cells apart."""

import json

import numpy as np
import pytest
from scipy import stats

from sdxl.core import records
from sdxl.core.errors import UserError
from sdxl.core.record import PerPrompt as Facts
from sdxl.core.record import Record
from sdxl.core.types import Prompt
from sdxl.quality import paired, per_prompt
from sdxl.quality.per_prompt import ANSWER, DISTANCE, NUMBER

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("count", [8, 16, 64])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(count):
    """500 draws: 95 % of them, less what a bootstrap of few normal values lacks (3 %)."""
    draws = RANDOM.normal(size=(500, count))
    found = [paired.interval(values, seed=number) for number, values in enumerate(draws)]
    covered = np.mean([low <= 0 <= high for low, high in found])
    assert 0.92 - 0.02 <= covered <= 0.98


def test_the_interval_is_seeded_and_of_equal_values_a_point():
    values = RANDOM.normal(size=20)
    assert paired.interval(values) == paired.interval(values)
    assert paired.interval([2.0, 2.0]) == (2.0, 2.0)
    assert paired.interval([3.0]) == (3.0, 3.0)


@pytest.mark.parametrize("flips", [(0, 0), (5, 5), (1, 9), (12, 3), (0, 6)])
def test_mcnemar_is_the_exact_binomial_test(flips):
    expected = stats.binomtest(flips[0], sum(flips)).pvalue if sum(flips) else 1.0
    assert paired.mcnemar(*flips) == pytest.approx(expected)


def test_flips_are_counted_both_ways_and_decide():
    theirs = [1.0] * 40 + [0.0] * 24
    ours = [0.0] * 10 + [1.0] * 31 + [0.0] * 23  # ten lost, one won
    found = paired.compare("attribute", ours, theirs, ANSWER)
    assert (found.right_to_wrong, found.wrong_to_right) == (10, 1)
    assert found.p_value == pytest.approx(stats.binomtest(1, 11).pvalue)
    assert found.verdict == "worse" and found.difference == pytest.approx(-9 / 64)
    assert "10 right to wrong, 1 wrong to right" in paired.sentence(found)
    back = paired.compare("attribute", theirs, ours, ANSWER)
    assert back.verdict == "better" and back.right_to_wrong == 1


def test_less_of_a_distance_is_better():
    theirs = RANDOM.normal(10, 1, 64)
    near = paired.compare("mean_deviation", theirs - 1, theirs, DISTANCE)
    assert near.verdict == "better" and near.low == near.high == pytest.approx(-1)
    assert paired.compare("psnr_db", theirs - 1, theirs, NUMBER).verdict == "worse"


def test_equal_says_within_what_and_how_many_prompts_would_tell():
    steps = RANDOM.normal(0.05, 1.0, 64)
    found = paired.compare("clip_score", steps, np.zeros(64))
    spread = steps.std(ddof=1)
    assert found.verdict == "equal"
    assert found.resolution == pytest.approx(2.8016 * spread / 8, rel=1e-3)
    assert found.prompts_needed == pytest.approx((2.8016 * spread / steps.mean()) ** 2, rel=0.01)
    said = paired.sentence(found)
    assert said.startswith("equal within") and f"{found.prompts_needed:,} would tell" in said


def test_as_many_prompts_as_are_said_to_tell_do_so_four_times_in_five():
    size, spread = 0.3, 1.0
    count = paired.needed(size, spread, 6)
    told = [
        paired.compare("x", RANDOM.normal(size, spread, count), np.zeros(count)).verdict == "better"
        for _ in range(300)
    ]
    assert 0.72 <= np.mean(told) <= 0.88


def test_few_prompts_show_nothing_and_say_so():
    found = paired.compare("psnr_db", [9.0] * 5, [1.0] * 5)
    assert (found.verdict, found.resolution, found.prompts_needed) == ("equal", None, 6)
    assert "6 at least" in paired.sentence(found)


def test_no_flip_at_all_resolves_no_less_than_six_would():
    found = paired.compare("attribute", [1.0] * 60, [1.0] * 60, ANSWER)
    assert found.verdict == "equal" and found.resolution == pytest.approx(0.1)
    assert found.prompts_needed is None


def test_what_is_no_pair_is_refused():
    with pytest.raises(ValueError, match="pairs"):
        paired.compare("x", [1.0], [1.0, 2.0])


def table(values, reference, rows=range(8)):
    found = per_prompt.PerPrompt([Prompt(n, f"caption {row}", row) for n, row in enumerate(rows)])
    kinds = {"attribute": ANSWER, "psnr_db": NUMBER}
    found.take(range(len(values)), {"attribute": values}, kinds)
    found.take(range(len(values)), {"attribute": reference}, kinds, reference=True)
    found.take(range(len(values)), {"psnr_db": [30.0 + v for v in values]}, kinds)
    return found


def cell(folder, found, **model):
    folder.mkdir()
    facts = Facts.from_json(found.write(folder))
    config = {"seed": 0, "model": {"height": 128, **model}, "dataset": {"name": "scenes"}}
    record = Record("key", config, "run.py", status="ok")
    record.quality.per_prompt = facts
    return records.write(record, folder)


def test_two_cells_meet_on_the_prompts_that_both_have(tmp_path):
    answers = [1, 1, 1, 1, 0, 0, 1, 1]
    one = cell(tmp_path / "one", table(answers, answers))
    other = cell(tmp_path / "other", table([0] * 6, [1] * 6, rows=range(2, 8)))
    found, reason = paired.beside(one, other)
    assert not reason
    by_name = {each.metric: each for each in found}
    assert by_name["attribute"].prompts == 6
    assert by_name["attribute"].ours == pytest.approx(4 / 6)
    changed = by_name["answers_changed"]
    assert (changed.ours, changed.theirs, changed.verdict) == (0.0, 1.0, "better")
    assert changed.wrong_to_right == 6 and changed.higher_is_better is False


def test_two_cells_of_other_noise_are_no_pairs(tmp_path):
    same = table([1] * 8, [1] * 8)
    one, other = cell(tmp_path / "a", same), cell(tmp_path / "b", same, noise="shared")
    assert "model.noise" in paired.beside(one, other)[1]
    bare = records.write(Record("key", {}, "run.py"), tmp_path / "bare")
    assert "no figures by prompt" in paired.beside(one, bare)[1]
    (tmp_path / "a" / per_prompt.FILE).unlink()
    assert "is not there" in paired.beside(one, one)[1]


def test_the_file_gives_back_what_was_put_in(tmp_path):
    found = table([1, 0, 0, 1], [1, 1, 1, 1])
    facts = found.write(tmp_path)
    assert facts["figures"] == ["attribute", "psnr_db"] and facts["prompts"] == 4
    back = per_prompt.read(tmp_path / per_prompt.FILE)
    assert back.figures == found.figures
    assert sum(back.changed().values.values()) == 2


@pytest.mark.parametrize("text", ["", "[]", '{"prompts": [[1]], "figures": {}}', '{"prompts": []}'])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "prompts.json").write_text(text)
    with pytest.raises(UserError, match="no figures by prompt"):
        per_prompt.read(tmp_path / "prompts.json")


def test_a_thousand_prompts_stay_small(tmp_path):
    found = per_prompt.PerPrompt([Prompt(n, f"caption {n}", n) for n in range(1024)])
    for name in ("a", "b", "c"):
        found.take(range(1024), {name: RANDOM.normal(size=1024).tolist()}, {})
    found.write(tmp_path)
    assert (tmp_path / per_prompt.FILE).stat().st_size < 64 << 10
    assert json.loads((tmp_path / per_prompt.FILE).read_text())["schema"] == 1
