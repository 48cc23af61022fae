"""Energy and price as axes of the Pareto front: planted records, every view."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdxl.report import choose, plots, text
from sdxl.report.axes import COSTS
from sdxl.report.cells import Cells, load, set_price
from sdxl.report.html.page import page
from sdxl.report.limits import Limits
from tests.sweep_of_records import put, quantized, record

ENERGY, PRICE = COSTS


@pytest.fixture
def planted(tmp_path: Path) -> Cells:
    """The fastest cell draws most energy; the last one has no counter; all have a price."""
    baseline = put(tmp_path / "0" / "baseline", record(1.0), None)
    cells = ((4.0, 30.0, 900.0), (3.0, 35.0, 300.0), (2.0, 33.0, 500.0), (2.5, 40.0, None))
    for count, (speed, psnr, joules) in enumerate(cells):
        made = quantized(speed, 1 + count, 0.8, psnr, baseline)
        made["config"]["cost"] = {"per_hour": 7.2}
        made["resources"]["energy"] = {"joules_per_image": joules}
        put(tmp_path / str(count), made, None)
    return load([tmp_path])


def test_each_cost_has_a_front_of_its_own(planted: Cells):
    by_speed = {cell.speed: cell for cell in planted.cells}
    cheap, frugal = by_speed[4.0], by_speed[3.0]
    assert choose.front(planted.cells, ENERGY) == [frugal], "no other is closer or draws less"
    assert choose.front(planted.cells, PRICE) == [cheap, frugal, by_speed[2.5]]
    (group,) = text.data(planted, Limits())["groups"]
    assert group["pareto_by"] == {
        "energy": [frugal.number],
        "price": [cheap.number, frugal.number, by_speed[2.5].number],
    }
    drawn = plots.scatters(planted.cells)
    assert [each.title for each in drawn] == [
        "Quality against speed", "Quality against energy", "Quality against price",
    ]  # fmt: skip
    energy = drawn[1]
    assert [cell.speed for cell, _ in energy.points] == [4.0, 3.0, 2.0]
    assert {cell.speed for cell in energy.lacking} == {1.0, 2.5}


def test_the_page_and_the_files_draw_them(planted: Cells, tmp_path: Path):
    html = page(planted, Limits())
    assert html.count('<svg class="wide"') == 3 and html.count("Upper left is better") == 2
    lacking = sorted(cell.number for cell in planted.cells if not cell.joules)
    assert f"their energy is not known: {', '.join(map(str, lacking))}." in html
    assert "← J/image" in html and "300 J/image" in html
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    names = [path.name for path in plots.draw(planted, tmp_path / "png")]
    assert names == ["speed-1.png", "pareto-1.png", "pareto-energy-1.png", "pareto-price-1.png"]


def test_without_costs_there_is_one_drawing(tmp_path: Path):
    baseline = put(tmp_path / "0" / "baseline", record(1.0), None)
    put(tmp_path / "0", quantized(2.0, 1, 0.8, 30.0, baseline), None)
    cells = load([tmp_path]).cells
    assert [each.title for each in plots.scatters(cells)] == ["Quality against speed"]


def test_the_cost_of_simulated_arithmetic_is_on_no_front(tmp_path: Path):
    baseline = put(tmp_path / "0" / "baseline", record(1.0), None)
    made = quantized(2.0, 1, 0.8, 30.0, baseline)
    made["performance"]["generator"]["simulated"] = True
    made["resources"]["energy"] = {"joules_per_image": 5.0}
    put(tmp_path / "0", made, None)
    assert choose.front(load([tmp_path]).cells, ENERGY) == []


def test_another_price_is_that_of_our_own_machine(planted: Cells):
    others = planted.cells[0]
    others.record.config["backend"]["name"] = "published"
    before = others.price
    set_price(planted, 36.0)
    assert others.price == before
    assert all(cell.setting("cost.per_hour") == 36.0 for cell in planted.cells[1:])
