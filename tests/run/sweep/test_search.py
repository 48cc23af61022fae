"""Searches: Optuna's questions, our cells, records as the storage."""

import pytest

from sdxl.config.compose import Composer
from sdxl.run.sweep import search
from sdxl.run.sweep.cells import Planned, combinations

FAST = ("backend=fake", "scenario.min_duration_ms=0", "limit=8", "quality.keep_images=1")


@pytest.mark.slow
def test_a_search_finds_the_fast_end_and_goes_on_where_records_end(cli):
    space = ("backend.sample_ms=range(1,41)", "backend.batch_size=1,2,4,8")
    first = cli("-m", *FAST, *space, "hydra.sweeper.trials=5", "hydra.sweeper.seed=3")
    assert first.code == 0, first.err
    assert first.json["ok"] == first.json["trials"] == first.json["measured"] == 5
    assert "5 trials to choose among 160 settings" in first.err
    rates = [r["performance"]["images_per_second"] for r in first.records()]
    assert first.json["pareto"] == [rates.index(max(rates))], "nothing is lost: one axis"
    more = cli("-m", *FAST, *space, "hydra.sweeper.trials=6", "hydra.sweeper.seed=3")
    assert more.json["cached"] == 5 and more.json["ok"] == 6
    keys = {r["key"] for r in more.records()}
    assert len(keys) == 6 and {r["key"] for r in first.records()} < keys


@pytest.mark.slow
def test_the_bundled_model_is_searched_over_levels_and_formats(cli):
    done = cli("-m", "+sweep=pareto", "hydra.sweeper.trials=1", "hydra.sweeper.min_psnr=50",
               "hydra.sweeper.seed=1", "limit=2", "calib_size=1", "backend.batch_size=2",
               "scenario.min_duration_ms=0", "scenario.min_query_count=2",
               "scenario.warmup_batches=1", "quant.report_prompts=0", timeout=280)  # fmt: skip
    assert done.code in (0, 3), done.err
    assert done.json["trials"] == 1 and done.json["min_psnr_db"] == 50
    for record in done.records():
        assert record["config"]["quant"]["format"] in ("int8", "fp8")
        assert record["quality"]["baseline"]["psnr_db"] > 5
        if record["config"]["quant"]["format"] == "fp8":
            assert record["config"]["alpha"] is None, "a setting that FP8 ignores is left out"
    assert done.json["pareto"] == [], "none keeps 50 dB"


class Settings(dict):
    """`hydra.sweeper` as a search reads it."""

    __getattr__ = dict.__getitem__


@pytest.fixture(scope="module")
def study():
    """Words of a command -> its search, as a sweep would make it."""
    composer = Composer("run")

    def make(*words, **settings):
        fixed, _, space = combinations(composer, list(words))
        return search.Search(composer, fixed, space, Settings(trials=30, seed=0, **settings))

    return make


def test_settings_that_a_recipe_refuses_or_ignores_never_become_cells(study):
    found = study("quant=int8,fp8,none", "quant_level=1,4", "alpha=0.2,0.9")
    points = found.ask(30)
    said = {" ".join(sorted(point)) for point in points}
    one_alpha = {point for point in said if "alpha" in point}
    assert len(one_alpha) == 1 and "quant=int8 quant_level=1" in one_alpha.pop()
    assert {point for point in said if "alpha" not in point} == {
        "quant=fp8 quant_level=1", "quant=fp8 quant_level=4", "quant=none",
    }  # fmt: skip


def test_a_budget_is_searched_over_shortcuts_and_steps(study):
    """A key that the chosen shortcut has not is left out, and so is what changes nothing."""
    found = study("shortcut=deepcache,tgate,none", "shortcut.interval=2,3", "shortcut.gate=0.5,0.7",
                  "model.steps=10,20")  # fmt: skip
    cells = [dict(word.split("=") for word in point) for point in found.ask(30)]
    assert {frozenset(cell) - {"model.steps"} for cell in cells} == {
        frozenset(keys) for keys in (["shortcut"], ["shortcut", "shortcut.gate"],
                                     ["shortcut", "shortcut.interval"])
    }  # fmt: skip
    assert len(cells) == 10 and {cell["model.steps"] for cell in cells} == {"10", "20"}


def test_a_space_that_is_used_up_ends_the_search(study):
    found = study("backend=fake", "seed=1,2,3")
    assert len(found.ask(30)) == 3 and found.ask(30) == []


def test_intervals_can_be_searched(study):
    found = study("backend=fake", "backend.sample_ms=interval(0.5,1.5)")
    drawn = [float(point[-1].partition("=")[2]) for point in found.ask(5)]
    assert len(set(drawn)) == 5 and all(0.5 <= value <= 1.5 for value in drawn)


def test_the_front_keeps_the_quality_bound(study, tmp_path, load):
    """Three measured cells: fast and bad, slower and good, slowest and worse."""
    from sdxl.core import records
    from sdxl.core.command import Outcome
    from sdxl.core.record import Comparison, Performance, Quality
    from sdxl.run import identity

    found = study("quant=int8", "quant_level=1,2,2.5", min_psnr=25.0)
    cells = []
    for number, words in enumerate(found.ask(3)):
        config = load(*words)
        cell = Planned(number, words, config, key=identity.identity(config))
        speed, psnr = {1: (1.0, 26.0), 2: (2.0, 30.0), 2.5: (3.0, 20.0)}[config.quant.level]
        record = identity.new(config)
        record.status = "ok"
        record.performance = Performance(images_per_second=speed)
        record.quality = Quality(baseline=Comparison(psnr_db=psnr, ssim=0.9))
        path = records.write(record, tmp_path / str(number))
        cell.outcome = Outcome(record=str(path))
        cells.append(cell)
    found.tell(cells)
    (best,) = found.summary()["pareto"]
    assert cells[best].config.quant.level == 2


def test_nothing_to_search_over_is_said(cli):
    done = cli("-m", *FAST, "hydra.sweeper.trials=3")
    assert done.code == 2 and "nothing to search over" in done.err
