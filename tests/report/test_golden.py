"""Records and a store made before the parts of a record had types: read, reported, written again.

`golden/fake` is `python run.py backend=fake limit=8 tracking=off quality=none`, `golden/int8` is
`python run.py quant=int8 quant_level=1 calib_size=2 limit=2 tracking=off` with its baseline, which
was called a twin then.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdxl.core import records, store
from sdxl.report import text
from sdxl.report.cells import load
from sdxl.report.html.page import page
from sdxl.report.limits import Limits
from sdxl.report.terminal import table

GOLDEN = Path(__file__).with_name("golden")
NAMES = ("fake", "int8", "int8/twin")


def _renamed(written: str) -> str:
    for name in ('"twin":', '"twin_images_per_second":'):
        written = written.replace(name, name.replace("twin", "baseline"))
    return written


@pytest.mark.parametrize("name", NAMES)
def test_reading_and_writing_changes_nothing_but_the_twins_name(name, tmp_path):
    path = GOLDEN / name / "record.json"
    again = records.write(records.read(path), tmp_path)
    assert again.read_text() == _renamed(path.read_text())


def test_an_old_sweep_is_reported():
    found = load([GOLDEN])
    assert not found.unreadable and len(found.cells) == 3
    int8 = next(cell for cell in found.cells if cell.quantized)
    assert int8.baseline and int8.baseline.path == GOLDEN / "int8/twin/record.json"
    assert int8.psnr == pytest.approx(48.135, abs=1e-3)
    assert int8.speed_up == pytest.approx(0.662, abs=1e-3)
    assert int8.rms_percent == pytest.approx(0.4163, abs=1e-4)
    assert int8.meaningless == "quantized arithmetic was simulated"
    for written in (page(found, Limits()), text.markdown(found, Limits())):
        assert "48.1" in written and "0.66" in written


@pytest.mark.parametrize("name", NAMES)
def test_an_old_record_has_its_table(name, capsys):
    record = records.read(GOLDEN / name / "record.json")
    table.show(record, "out")
    said = capsys.readouterr().out
    assert f"{record.performance.images_per_second:.3f} images/s" in said
    assert "gates of v6.1" not in said, "nobody asked for MLPerf's verdict"


def _names(node: Any) -> Any:
    """Names without values, in their order."""
    if isinstance(node, dict):
        return [(name, _names(value)) for name, value in node.items()]
    return [_names(node[0])] if isinstance(node, list) and node else None


VARIES = {"config", "packages", "detail", "settings", "warnings", "probe", "energy",
          "instructions"}  # fmt: skip
"""What depends on the machine, LoadGen's version or newer settings."""


def _without(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _without(value) for name, value in node.items() if name not in VARIES}
    return [*map(_without, node)] if isinstance(node, list) else node


def test_the_same_run_leaves_the_same_record(cli):
    """All but times and figures, which no two runs share."""
    words = ("backend=fake", "limit=8", "quality=none", "model=tiny", "rules=closed")
    new = cli(*words).record
    assert [*new["quality"].pop("reference")] == ["absent"]  # since 0.2: why there is none
    old = json.loads((GOLDEN / "fake/record.json").read_text())
    assert _names(_without(new)) == _names(_without(old))
    assert new["images"] == old["images"]
    kept = ("counts", "latency_ms", "latency_histogram", "stage_ms", "generator", "unit", "metric")
    assert [*new["performance"]] == [*old["performance"]] and {*kept} <= {*new["performance"]}
    for name in ("key", "comparable_reason", "artifacts", "quality", "status"):
        assert new[name] == old[name]
    assert new["performance"]["artifact_key"] == old["performance"]["artifact_key"]


def test_an_old_store_is_read(monkeypatch):
    monkeypatch.setenv("SDXL_STORE", str(GOLDEN / "store"))
    found = store.find("layer_report", "b0f278d5cf930231")
    assert found and found.manifest.kind == "layer_report"
    assert json.loads((found.path / "errors.json").read_text())
