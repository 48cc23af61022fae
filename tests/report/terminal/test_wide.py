"""The report's tables at every width: no heading broken, no column cut, eight columns at most."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from sdxl.core import terminal
from sdxl.report import text
from sdxl.report.cells import load
from sdxl.report.limits import Limits
from sdxl.report.terminal import wide
from tests.sweep_of_records import sweep

SCORES = {"clip_scenes": 91.722, "fid_scenes": 63.035, "attribute_accuracy": 0.71875,
          "a_metric_with_a_very_long_name_of_its_own": 1.0}  # fmt: skip


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A sweep with scores, energy and a price."""
    folder = sweep(tmp_path_factory.mktemp("scored"))
    for file in folder.rglob("record.json"):
        try:
            made = json.loads(file.read_text())
        except ValueError:
            continue
        if made["status"] == "ok":
            made["quality"]["scores"] = {"metrics": SCORES, "by": "fast", "images": 64}
            made["resources"]["energy"] = {"joules_per_image": 211.5}
            made["config"]["cost"] = {"per_hour": 2.5}
            file.write_text(json.dumps(made))
    return load([folder])


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_report_fits(scored, width, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "console", lambda **_: Console(width=width, markup=False))
    text.show(scored, Limits(min_psnr=25))
    lines = capsys.readouterr().out.splitlines()
    framed = [line for line in lines if line.startswith(("┏", "┃", "│", "┡"))]
    assert framed and max(map(len, framed)) <= width
    heads = [line for line in framed if line.startswith("┃")]
    (group,) = scored.groups.values()
    named, rows = text.results(group)
    shown = [[cell.strip() for cell in line.strip("┃").split("┃")] for line in heads]
    assert all(len(head) <= wide.MOST for head in shown)
    once = [name for head in shown for name in head[wide.KEYS :]]
    assert once == named[wide.KEYS :], "every column once, its heading whole"
    body = "\n".join(framed)
    for row in rows:
        assert all(value in body for value in row[wide.KEYS :])
    assert "…" not in body


def test_scores_stand_apart_at_a_hundred_columns(scored):
    (group,) = scored.groups.values()
    first, second, *_ = wide.tables(*text.results(group), "title", 100)
    names = [str(column.header) for column in first.columns]
    assert names == ["#", "setting", "status", "images/s", "speed-up", "p99 ms", "GiB", "PSNR dB"]
    assert "clip_scenes" not in names and second.columns[wide.KEYS].header != "status"


def test_no_path_is_broken(scored, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "console", lambda **_: Console(width=80, markup=False))
    text.show(scored, Limits())
    ((path, _),) = scored.unreadable
    assert str(path) in capsys.readouterr().out
