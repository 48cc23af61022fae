"""The CSV: every cell, and nothing that a spreadsheet would compute."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from sdxl.report import command, table_file
from sdxl.report.cells import load
from sdxl.report.limits import Limits
from sdxl.report.text import data
from tests.sweep_of_records import put, record


@pytest.mark.parametrize("evil", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1"])
def test_text_never_becomes_a_formula(tmp_path, evil):
    put(tmp_path, record(command=evil, reason="plain"))
    (row,) = csv.DictReader(io.StringIO(table_file.of(data(load([tmp_path]), Limits()))))
    assert row["command"] == f"'{evil}" and row["reason"] == "plain"
    assert float(row["images_per_second"]) == 2.0


def test_a_negative_number_stays_a_number():
    (row,) = csv.DictReader(io.StringIO(table_file.of({"cells": [{"gain": -1.5, "none": None}]})))
    assert row == {"gain": "-1.5", "none": ""}


def test_each_report_has_its_own_folder_with_page_csv_and_json(folder: Path, capsys):
    written = []
    for _ in range(2):
        assert command.main([str(folder)]) == 0
        written.append(json.loads(capsys.readouterr().out.splitlines()[-1])["written"])
    assert len({*written[0], *written[1]}) == 6
    for paths in written:
        assert [Path(path).name for path in paths] == ["report.html", "report.csv", "report.json"]
        assert len(list(csv.DictReader(Path(paths[1]).read_text().splitlines()))) == 8
        assert len(json.loads(Path(paths[2]).read_text())["cells"]) == 8
