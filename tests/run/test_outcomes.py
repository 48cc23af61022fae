"""Folders that are used again: what lies there is this measurement's, nobody else's changes."""

import shutil

import numpy as np
import pytest

from sdxl.config.schema import Cost, Rerun
from sdxl.core import records
from sdxl.core.record import Image, Performance
from sdxl.model import images
from sdxl.run import attempt, identity, ledger, measure, outcomes


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)


@pytest.fixture
def cell(load, request):
    """Measure a seed in a folder without LoadGen; every picture is drawn from the seed."""
    drawn = []
    invalid = {2, 3} if hasattr(request, "param") else ()

    def once(config, folder, record, say):
        drawn.append(config.seed)
        digest = images.save(picture(config.seed), folder / "images" / "000000.png")
        record.images = [Image(0, "images/000000.png", digest)]
        (folder / "loadgen").mkdir(exist_ok=True)
        for name in ("loadgen/mlperf_log_summary.txt", "images.png", "worker.log"):
            (folder / name).write_text(str(config.seed))
        record.status, record.performance = "ok", Performance(images_per_second=float(len(drawn)))
        record.artifacts += [{"key": "one"}]
        if len(drawn) in invalid:
            record.status, record.reason = "invalid", "too short"

    def make(folder, seed, monkeypatch, *words):
        monkeypatch.setattr(measure, "_once", once)
        config = load("backend=fake", f"seed={seed}", *words)
        record = identity.new(config)
        measure.measure(config, folder, record)
        path = records.write(record, folder)
        ledger.remember(record, path)
        return path, record

    return make


def holds(folder, seed):
    """Whether the record and every file of a folder are of that seed."""
    record = records.read(folder / "record.json")
    whole = images.pixel_hash(picture(seed))
    logs = [(folder / n).read_text() for n in ("images.png", "loadgen/mlperf_log_summary.txt")]
    return (
        record.config["seed"] == seed
        and record.images[0].sha256 == whole
        and images.pixel_hash(images.load(folder / record.images[0].file)) == whole
        and logs == [str(seed)] * 2
    )


def test_measuring_where_a_cell_was_taken_over_leaves_the_original_whole(
    cell, tmp_path, monkeypatch
):
    first, again = tmp_path / "first", tmp_path / "again"
    outcomes.take_over(again, *cell(first, 1, monkeypatch))
    assert holds(again, 1)
    cell(again, 2, monkeypatch)
    assert holds(again, 2)
    assert holds(first, 1)


def test_taking_over_into_a_used_folder_leaves_nothing_of_what_was_there(
    cell, tmp_path, monkeypatch
):
    used = tmp_path / "used"
    cell(used, 1, monkeypatch)
    (used / "baseline.png").touch()
    outcomes.take_over(used, *cell(tmp_path / "other", 2, monkeypatch))
    assert holds(used, 2) and not (used / "baseline.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "store") == [
        "other",
        "used",
    ]


def test_a_cell_that_is_taken_over_has_the_price_asked_for_now(cell, tmp_path, monkeypatch):
    """The price is no part of its key: another one measures nothing anew."""
    path, record = cell(tmp_path / "first", 1, monkeypatch, "cost.per_hour=2")
    assert record.key == cell(tmp_path / "other", 1, monkeypatch)[1].key
    again = outcomes.take_over(tmp_path / "again", path, record, Cost(7.2))
    kept = records.read(tmp_path / "again" / "record.json")
    assert kept.config["cost"] == {"per_hour": 7.2}
    assert again.figures["price_per_thousand"] == pytest.approx(2.0)  # at one image a second
    assert records.read(path).config["cost"] == {"per_hour": 2.0}, "the first one stays"


def test_cells_that_change_places_keep_their_own_files(cell, tmp_path, monkeypatch):
    """A grid that grew at its front: each cell comes from a folder that another one goes to."""
    found = [cell(tmp_path / str(number), seed, monkeypatch) for number, seed in enumerate((1, 2))]
    order = [(tmp_path / "1", *found[0]), (tmp_path / "0", *found[1])]
    staged = [outcomes.stage(place, path) for place, path, _ in order]
    for (place, _, record), each in zip(order, staged, strict=True):
        outcomes.settle(place, each, record)
    assert holds(tmp_path / "0", 2) and holds(tmp_path / "1", 1)


def test_repeats_in_a_used_folder_are_those_of_this_measurement(cell, tmp_path, monkeypatch):
    folder = tmp_path / "cell"
    cell(folder, 1, monkeypatch, "repeat=5")
    _, record = cell(folder, 2, monkeypatch, "repeat=3")
    assert record.performance.repeats == [6.0, 7.0, 8.0]
    assert record.performance.images_per_second == 7.0
    assert holds(folder, 2)
    left = {path.name for path in folder.iterdir()}
    assert {name for name in left if name.startswith("repeat-")} == {"repeat-0", "repeat-2"}


@pytest.mark.parametrize("cell", ["invalid"], indirect=True)
def test_a_repetition_that_is_invalid_makes_the_measurement_so(cell, tmp_path, monkeypatch):
    """Also where the median is none of them; what all have in common is named once."""
    _, record = cell(tmp_path / "cell", 1, monkeypatch, "repeat=5")
    assert record.status == "invalid"
    assert record.reason == "repetition 2: too short; repetition 3: too short"
    assert record.performance.repeats == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert record.artifacts == [{"key": "one"}]


def test_repeats_find_room_beside_what_a_killed_run_left(cell, tmp_path, monkeypatch):
    """No record tells whose these are, so nothing is cleared; the median run goes over them."""
    folder = tmp_path / "cell"
    cell(folder, 1, monkeypatch, "repeat=3")
    (folder / "record.json").unlink()
    for left in folder.glob("repeat-*"):
        shutil.rmtree(left)
    (folder / "images" / "holiday.png").touch()
    cell(folder, 2, monkeypatch, "repeat=3")
    assert holds(folder, 2) and (folder / "images" / "holiday.png").exists()


def test_a_folder_of_somebody_else_is_not_cleared(tmp_path):
    (tmp_path / "images").mkdir()
    outcomes.clear(tmp_path)
    assert (tmp_path / "images").is_dir()


def test_a_baseline_in_the_cells_own_folder_moves_out_of_the_way(cell, load, tmp_path, monkeypatch):
    made, record = cell(tmp_path / "0", 0, monkeypatch)
    given = load("backend=fake", "seed=0")
    assert identity.new(given).key == record.key
    context = attempt.Context(Rerun.failed)
    found = attempt.other_run(given, made.parent / "baseline", "", context)
    assert found == tmp_path / "0" / "baseline" / "record.json"
    outcomes.clear(made.parent)  # as the quantized cell's measurement does
    assert holds(found.parent, 0)
    assert ledger.recall(record.key, Rerun.failed)[0] == found


def test_a_baseline_whose_pictures_are_gone_is_measured_again(cell, load, tmp_path, monkeypatch):
    """The comparison needs them, and comes after the whole measurement of the quantized cell."""
    made, _ = cell(tmp_path / "0", 0, monkeypatch)
    context = attempt.Context(Rerun.failed)
    asked = load("backend=fake", "seed=0"), tmp_path / "1" / "baseline", "", context
    assert attempt.other_run(*asked, pictures=True) == made
    (made.parent / "images" / "000000.png").unlink()
    assert attempt.other_run(*asked) == made, "where only the figures are needed"
    found = attempt.other_run(*asked, pictures=True)
    assert found == tmp_path / "1" / "baseline" / "record.json" and holds(found.parent, 0)
