"""A load curve in every view: terminal, page, PNG; and of a record that lacks half of it."""

import json

import pytest

from sdxl.core.record import Record
from sdxl.report import command, curve
from tests.sweep_of_records import record


def point(kind, asked, p99, **more):
    return {"kind": kind, "asked": asked, "offered": asked, "completed": asked * 0.98,
            "goodput": asked * 0.9, "p50": p99 / 2, "p90": p99 / 1.2, "p99": p99,
            "requests": 64, "saturated": False, **more}  # fmt: skip


CURVE = {
    "points": [point("in flight", 4, 90.0, offered=30.0), point("rate", 10.0, 80.0),
               point("rate", 40.0, 120.0), point("rate", 90.0, 4000.0, saturated=True),
               point("trace", 20.0, 100.0)],
    "knee": 80.0, "saturated_at": 90.0, "limit_ms": 500.0, "percentile": 0.99, "within_limit": 39.2,
}  # fmt: skip


@pytest.fixture
def place(tmp_path):
    found = record(80.0)
    found["config"] = {**found["config"], "scenario": {"name": "LoadCurve"}}
    found["performance"]["curve"] = CURVE
    (tmp_path / "record.json").write_text(json.dumps(found))
    return tmp_path


def test_every_view_has_the_curve(place, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert command.main([str(place), "--html", str(page), "--png", str(tmp_path / "png")]) == 0
    html = page.read_text()
    assert html.count("knee at 80.00 requests/s, saturated at 90.00") >= 2, "drawing and caption"
    assert "4 in flight" in html and "64, saturated" in html and 'class="load"' in html
    assert (tmp_path / "png/load-1.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    curve.show(Record.from_json(json.loads((place / "record.json").read_text())))
    said = capsys.readouterr().out
    assert "39.20 requests/s with 99 % within 500 ms" in said
    bars = [line.count("━") for line in said.splitlines() if "│" in line and "━" in line]
    assert len(bars) == 5 and max(bars) == bars[3] and min(bars) == bars[1]


@pytest.mark.parametrize("found", [{}, {"points": None}, {"points": [{"kind": "rate"}, 1]},
                                   {"points": [point(None, 1.0, 1.0)]},
                                   {"points": [point("rate", 1.0, 1.0)]}])  # fmt: skip
def test_a_record_is_not_trusted_to_have_all_of_it(found, capsys):
    made = Record.from_json({"key": "k", "config": {}, "command": "", "performance": {
        "curve": found}})  # fmt: skip
    curve.show(made)
    assert len(curve.rows(made)) == (found.get("points") or [0])[0:1].count(point("rate", 1.0, 1.0))
    assert "no knee" in curve.sentence(made)
