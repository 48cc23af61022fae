"""Settings over several seeds in the report: intervals, and what cannot be told apart."""

import json

import pytest

from sdxl.report import seeds, text
from sdxl.report.cells import load
from sdxl.report.html.page import page
from sdxl.report.limits import Limits
from sdxl.report.seeds import Spread
from tests.sweep_of_records import CONFIG, record


@pytest.fixture
def cells(tmp_path):
    """Three recipes with three seeds, and one with a single one."""
    scores = {1.0: (50.0, 52.0, 54.0), 2.0: (53.0, 55.0, 54.5), 3.0: (90.0, 91.0, 92.0), 2.5: (7,)}
    number = 0
    for level, values in scores.items():
        for seed, value in enumerate(values):
            config = {**CONFIG, "seed": seed}
            config["quant"] = {**CONFIG["quant"], "name": "int8", "format": "int8", "level": level}
            quality = {"scores": {"metrics": {"fid_scenes": value}}}
            folder = tmp_path / str(number)
            folder.mkdir()
            whole = record(config=config, quality=quality)
            (folder / "record.json").write_text(json.dumps(whole))
            number += 1
    return load([tmp_path])


def test_an_interval_is_students():
    spread = Spread((1.0, 2.0, 3.0))
    assert spread.mean == 2 and spread.range == 2
    assert spread.half == pytest.approx(2.484, abs=1e-3)


def test_an_interval_of_many_seeds_is_students_too():
    stats = pytest.importorskip("scipy.stats")
    for count in (2, 10, 11, 15, 40, 500):
        spread = Spread((0.0, 1.0) * (count // 2) + (0.5,) * (count % 2))
        low, high = stats.t.interval(
            0.95, count - 1, loc=spread.mean, scale=stats.sem(spread.values)
        )
        assert 2 * spread.half == pytest.approx(high - low, rel=2e-3)


def test_differences_seed_by_seed_tell_what_means_cannot():
    one, other = Spread((10.0, 50.0, 90.0)), Spread((12.0, 53.0, 92.5))
    assert one.equals(other)
    step = other.minus(one)
    assert step.values == (2.0, 3.0, 2.5) and step.apart
    assert not Spread((-1.0, 1.0, 3.0)).apart and not Spread((5.0,)).apart
    with pytest.raises(ValueError, match="shorter"):
        one.minus(Spread((1.0, 2.0)))


def test_settings_are_grouped_by_all_but_the_seed(cells):
    found = seeds.settings(cells.cells)
    assert [len(each.cells) for each in found] == [3, 3, 3]
    assert not any("seed" in each.label for each in found)
    assert found[0].scores["scores.metrics.fid_scenes"].values == (50.0, 52.0, 54.0)


def test_settings_closer_than_two_seeds_are_equal_and_others_not(cells):
    head, rows = seeds.table(cells.cells)
    place = head.index("scores.metrics.fid_scenes")
    assert [row[place].partition("=")[2] for row in rows] == ["2", "1", ""]


def test_every_form_of_the_report_shows_them(cells):
    assert "52 ± 5" in text.markdown(cells, Limits())
    assert "Over seeds" in page(cells, Limits())
    (group,) = text.data(cells, Limits())["groups"]
    over = group["over_seeds"]
    assert len(over) == 3 and over[2]["scores"]["scores.metrics.fid_scenes"]["mean"] == 91
