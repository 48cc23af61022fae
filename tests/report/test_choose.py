"""The answer: one quality measure in every view, limits and margins, what would change it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdxl.core import records
from sdxl.quality import baseline
from sdxl.report import choose, plots, text
from sdxl.report.cell import Cell
from sdxl.report.cells import Cells, load
from sdxl.report.html.page import page
from sdxl.report.limits import Limits
from sdxl.report.mlflow import content
from tests.sweep_of_records import put, quantized, record


def only(found: Cells) -> list[Cell]:
    (group,) = found.groups.values()
    return group


def compared(speed: float, level: float, pairs: list[float], baseline: Path, **facts) -> dict:
    """A quantized record whose pictures have these PSNRs."""
    made = quantized(speed, level, 0.8, sum(pairs) / len(pairs), baseline)
    made["quality"]["baseline"]["pairs"] = [{"psnr_db": db, "ssim": 0.9} for db in pairs]
    made["performance"]["generator"].update(facts)
    return made


def two(folder: Path, **facts) -> Cells:
    """Level 1 is closer by mean PSNR, level 2 by root mean square: one picture of level 1 is bad.

    Level 1 is faster too, so by mean PSNR it alone stands on the front beside the baseline.
    """
    baseline = put(folder / "0" / "baseline", record(2.0))
    put(folder / "0", compared(3.0, 1, [40.0, 40.0, 20.0], baseline, **facts))
    put(folder / "1", compared(2.5, 2, [30.0, 30.0, 30.0], baseline, **facts))
    return load([folder])


def test_every_view_ranks_by_the_mean_psnr_that_it_shows(tmp_path):
    found = two(tmp_path)
    base, one, other = only(found)
    assert one.rms_percent > other.rms_percent and one.psnr > other.psnr  # the orders differ
    assert choose.closest(only(found)) is one
    assert choose.front(only(found)) == [one, base]
    said = choose.answer(only(found), Limits(min_psnr=32))
    assert said.best is one and "PSNR 33.3 dB" in said.sentence
    assert "runner-up: fp16" in " ".join(": ".join(fact) for fact in said.facts)
    assert [cell for cell, _ in said.refused] == [other]
    head, rows = text.results(only(found))
    assert [row[head.index("PSNR dB")] for row in rows] == ["baseline", "33.3", "30.0"]
    scatter = plots.scatter_of(only(found))
    assert scatter and scatter.leading == [one, base]
    assert all(y == cell.psnr for cell, y in scatter.points)
    assert scatter.y_name == "PSNR to the baseline, dB"
    html, written = page(found, Limits()), text.markdown(found, Limits())
    assert "PSNR 33.3 dB" in html and ">33.3<" in html and "PSNR 33.3 dB" in written
    whole = text.data(found, Limits())
    assert whole["groups"][0]["pareto"] == [one.number, base.number]
    logged = content.metrics(records.read(one.path))["psnr_db"]
    assert logged == whole["cells"][1]["psnr_db"] == pytest.approx(100 / 3)


def test_the_sentence_about_simulated_cells_ranks_by_the_same_measure(tmp_path):
    found = two(tmp_path, simulated=True)
    said = choose.answer(only(found), Limits())
    assert said.best is None and "level 1 stays closest" in said.sentence
    assert "PSNR 33.3 dB" in said.sentence


def test_margins_and_what_would_change_the_answer(found: Cells):
    said = choose.answer(only(found), Limits(min_psnr=25, max_latency_ms=500))
    assert said.best and said.best.label == "int8 level 2.5 alpha 0.8"
    assert said.margins == [
        "PSNR 27.9 dB, 2.9 dB above the limit", "p99 405.4 ms, 94.6 ms (19%) below the limit",
    ]  # fmt: skip
    assert said.runner_up and said.runner_up.label == "int8 level 2.5 alpha 0.5"
    assert any(
        change.startswith("without PSNR at least 25 dB: int8 level 3 alpha 0.8")
        for change in said.changes
    )
    for limits in (Limits(), Limits(min_psnr=29)):
        best = choose.answer(only(found), limits).best
        tighter = choose.answer(only(found), Limits(min_psnr=(best.psnr if best else 0) + 0.1)).best
        changes = choose.answer(only(found), limits).changes
        assert tighter and any(f"above {best.psnr:.1f} dB: {tighter.label}" in c for c in changes)


def test_energy_and_price_are_limits_and_what_is_not_measured_breaks_them(tmp_path):
    for count, joules in enumerate((900.0, 300.0, None)):
        made = record(3.0 - count, command=f"python run.py seed={count}")
        made["config"] |= {"seed": count, "cost": {"per_hour": 3.6}}
        if joules:
            made["resources"]["energy"] = {"joules_per_image": joules}
        put(tmp_path / str(count), made)
    cells = only(load([tmp_path]))
    assert [cell.joules for cell in cells] == [900.0, 300.0, None]
    assert cells[1].price == pytest.approx(0.5)  # 1,000 images at 2 a second and 3.6 an hour
    assert choose.answer(cells, Limits(max_joules=400)).best is cells[1]
    said = choose.answer(cells, Limits(max_price=0.4))
    assert said.best is cells[0]
    assert [cell for cell, _ in said.refused] == cells[1:]
    assert Limits(max_joules=400).broken(cells[2]) == ["energy was not measured"]


def test_simulated_speed_keeps_no_limit_of_speed(tmp_path):
    cell = only(two(tmp_path, simulated=True))[1]
    assert Limits(max_latency_ms=1e9).broken(cell) == [
        "p99 was not measured: quantized arithmetic was simulated"
    ]
    assert not Limits(max_memory_gib=100).broken(cell)


def test_cells_that_pictures_cannot_tell_apart_are_named(tmp_path):
    baseline = put(tmp_path / "0" / "baseline", record(2.0))
    for count, sign in enumerate((1, -1)):
        pairs = [25.0 + sign, 25.0 - sign, 25.0]
        put(tmp_path / str(count), compared(3.0 + count, 1 + count, pairs, baseline))
    said = choose.answer(only(load([tmp_path])), Limits())
    assert said.alike == ["in quality: int8 level 2, int8 level 1"]
    assert ("cannot be told apart", said.alike[0]) in said.facts


def test_speeds_whose_repeats_overlap_are_not_told_apart(tmp_path):
    for count, repeats in enumerate(([2.0, 2.2, 2.1], [2.05, 2.1, 2.0])):
        made = record(2.1 - count / 20, command=f"python run.py seed={count}")
        made["config"]["seed"] = count
        made["performance"]["repeats"] = repeats
        put(tmp_path / str(count), made)
    said = choose.answer(only(load([tmp_path])), Limits())
    assert len(said.alike) == 1 and said.alike[0].startswith("in speed: ")


def test_an_unquantized_cell_that_nothing_was_compared_with_has_no_quality(tmp_path):
    """bf16 beside fp32's INT8 is not without loss by definition."""
    found = two(tmp_path)
    lonely = record(5.0)
    lonely["config"]["precision"]["unet"] = "bf16"
    put(tmp_path / "2", lonely)
    found = load([tmp_path])
    bf16 = next(cell for cell in found.cells if cell.setting("precision.unet") == "bf16")
    assert bf16.psnr is None and bf16 not in choose.front(only(found))
    assert Limits(min_psnr=10).broken(bf16) == ["PSNR was not measured"]
    scatter = plots.scatter_of(only(found))
    assert scatter and scatter.missing == [bf16]


def test_the_common_reference_is_the_measure_where_records_have_it(tmp_path):
    """fp32, bf16 and INT8 on one axis; who lacks it is named with the reason."""
    folder = tmp_path / "0" / "baseline"
    baseline = put(folder, referred(record(2.0), None))
    put(tmp_path / "0", referred(quantized(4.0, 1, 0.8, 45.0, baseline), 30.0))
    bf16 = referred(record(3.0), 40.0)
    bf16["config"]["precision"]["unet"] = "bf16"
    put(tmp_path / "1", bf16)
    absent = quantized(5.0, 2, 0.8, 50.0, baseline)
    absent["quality"]["reference"] = {"absent": "another scheduler"}
    put(tmp_path / "2", absent)
    found = load([tmp_path])
    by_speed = {cell.speed: cell for cell in only(found)}
    assert [by_speed[speed].psnr for speed in (2.0, 3.0, 4.0, 5.0)] == [float("inf"), 40, 30, None]
    assert [cell.speed for cell in choose.front(only(found))] == [4.0, 3.0, 2.0]
    said = choose.answer(only(found), Limits(min_psnr=35))
    assert said.best is by_speed[3.0] and "at PSNR 40.0 dB" in said.sentence
    number = by_speed[5.0].number
    assert f"Not compared with the reference: {number} (another scheduler)." in said.notes
    assert "PSNR to the reference, dB" in page(found, Limits())
    assert text.data(found, Limits())["cells"][0]["compared_with"] == "reference"


def test_the_rms_is_over_all_pictures(tmp_path):
    """Also where a comparison keeps no pairs; of older ones that kept neither it is not known."""
    pairs = [
        {"psnr_db": psnr, "ssim": 1.0, "max_deviation": 1, "mean_deviation": 0.1}
        for psnr in (40.0, 20.0, None, None)
    ]
    whole = baseline.summary(pairs)
    wanted = 100 * ((1e-4 + 1e-2) / 4) ** 0.5
    kept, old = record(2.0), record(3.0)
    kept["quality"]["reference"] = whole
    old["quality"]["reference"] = {k: v for k, v in whole.items() if k != "mean_square"}
    put(tmp_path / "0", kept, None)
    put(tmp_path / "1", old, None)
    by_speed = {cell.speed: cell for cell in only(load([tmp_path]))}
    assert by_speed[2.0].rms_percent == pytest.approx(wanted)
    assert by_speed[3.0].rms_percent is None and by_speed[3.0].psnr == 30.0


def referred(made: dict, psnr: float | None) -> dict:
    """A record that was compared with the reference."""
    same = {"images": 3, "identical": 3 * (psnr is None), "psnr_db": psnr, "ssim": 1.0}
    made["quality"]["reference"] = same | {"pairs": [{"psnr_db": psnr}] * 3}
    return made


def test_json_has_no_infinity(tmp_path):
    written = json.dumps(text.data(two(tmp_path), Limits()), allow_nan=False)
    assert json.loads(written)["cells"][0]["identical"] is True
