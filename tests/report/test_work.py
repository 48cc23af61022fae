"""Every view of a record with a shortcut says what an image took, beside closed rules."""

import json

import pytest

from sdxl.core.record import Performance
from sdxl.model import cost
from sdxl.report import text
from sdxl.report.cells import load as load_cells
from sdxl.report.html.page import page
from sdxl.report.limits import Limits
from sdxl.report.mlflow import content
from sdxl.report.terminal import table
from sdxl.run import identity
from tests.sweep_of_records import CONFIG, record


@pytest.fixture(scope="module")
def short(load):
    """The record of a configuration with DeepCache, as far as it can be told without running."""
    config = load("rules=open", "shortcut=deepcache", "model.steps=6")
    made = identity.new(config)
    work = cost.count(config, 1).describe()
    made.performance = Performance(work=work, images_per_second=2.0)
    return made, work


@pytest.fixture
def cells(short, tmp_path):
    """Two cells of a report, one with the shortcut."""
    _, work = short
    for place, (name, counted) in enumerate((("none", None), ("deepcache", work))):
        made = record(config={**CONFIG, "shortcut": {"name": name}})
        made["performance"] |= {"work": counted} if counted else {}
        (tmp_path / str(place)).mkdir()
        (tmp_path / str(place) / "record.json").write_text(json.dumps(made))
    return load_cells([tmp_path])


def test_the_table_of_a_run_has_it(short, load, capsys):
    made, work = short
    table.show(made, "out")
    said = capsys.readouterr().out
    assert "Offline, shortcut deepcache" in said
    assert f"deepcache: 6 UNet forwards of 12 rows, {work['tflop']:.4g} TFLOP an image" in said
    assert f"closed rules: 12 rows, {work['closed']['tflop']:.4g} TFLOP" in said
    table.show(identity.new(load()), "out")
    assert "shortcut" not in capsys.readouterr().out


def test_mlflow_has_it(short, load):
    made, work = short
    numbers = content.metrics(made)
    assert numbers["unet_forwards"] == 6 and numbers["unet_rows"] == 12
    assert numbers["share_of_closed_tflop"] == work["tflop"] / work["closed"]["tflop"] < 1
    assert content.tags(made)["shortcut"] == "deepcache" and "deepcache" in content.name(made)
    plain = identity.new(load())
    assert "unet_rows" not in content.metrics(plain) and "shortcut" not in content.tags(plain)


def test_a_report_has_it_in_each_form(cells, short):
    _, work = short
    (group,) = cells.groups.values()
    head, rows = text.results(group)
    named = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["UNet rows"] for row in named] == [text.DASH, "12"]
    assert named[1]["TFLOP/image"] == f"{work['tflop']:.4g}" and named[1]["UNet forwards"] == "6"
    share = f"{work['tflop'] / work['closed']['tflop']:.0%}"
    assert named[1]["of closed"] == share
    assert share in page(cells, Limits()) and "UNet rows" in text.markdown(cells, Limits())
    one = text.data(cells, Limits())["cells"][1]
    assert one["shortcut"]["shortcut"] == "deepcache" and one["shortcut"]["rows"] == 12
    assert "UNet rows" not in text.results(group[:1])[0], "no column where no cell has one"
