"""JSON objects as dataclasses: typed where the file is right, lossless where it is not."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from sdxl.core.json_part import JsonPart
from sdxl.core.record import Environment, GateRow, Performance, Record


@dataclass
class Inner(JsonPart):
    size: int | None = None


@dataclass
class Outer(JsonPart):
    name: str | None = None
    rate: float | None = None
    inner: Inner = field(default_factory=Inner)
    rows: list[Inner] = field(default_factory=list)


WHOLE = {"later": [1], "rows": [{"size": 1, "colour": "red"}], "name": None, "inner": {}, "rate": 2}


@pytest.mark.parametrize(
    "stored",
    [
        WHOLE,
        {},
        {"rate": "fast", "name": 7, "inner": [], "rows": [1]},
        {"rate": True, "inner": {"size": 1.5, "x": None}},
        {"rows": [], "name": "", "rate": 0},
    ],
)
def test_what_is_read_is_written_in_its_order(stored):
    written = Outer.from_json(stored).to_json()
    assert written == stored
    assert list(written) == list(stored)


def test_fields_have_their_types_or_nothing():
    good = Outer.from_json(WHOLE)
    assert (good.rate, good.name, good.rows[0].size, good.other["later"]) == (2, None, 1, [1])
    bad = Outer.from_json({"rate": "fast", "name": 7, "inner": [], "rows": [1]})
    assert (bad.rate, bad.name, bad.inner, bad.rows) == (None, None, Inner(), [])


def test_a_field_that_is_set_replaces_what_was_there_and_new_ones_come_last():
    part = Outer.from_json({"rate": "fast", "later": 1})
    part.rate, part.inner.size = 3.5, 4
    assert list(part.to_json().items()) == [("rate", 3.5), ("later", 1), ("inner", {"size": 4})]


def test_a_part_is_true_if_it_says_anything():
    assert not Outer() and not Outer.from_json({})
    assert Outer(name="a") and Outer.from_json({"later": 1})


def test_a_new_record_has_every_field_and_a_read_one_those_it_had():
    new = Record("key", {}, "python run.py").to_json()
    assert list(new) == [
        "key", "config", "command", "status", "reason", "comparable", "comparable_reason",
        "performance", "quality", "verdict", "resources", "artifacts", "images", "environment",
        "durations", "started", "id", "schema",
    ]  # fmt: skip
    least = {"key": "k", "config": {}, "command": "", "id": "7", "started": "2026"}
    assert Record.from_json(least).to_json() == least


@pytest.mark.parametrize(
    ("wrong", "what"),
    [({"performance": []}, "performance"), ({"key": 1}, "key"), ({"images": {}}, "images")],
)
def test_a_record_of_other_types_is_refused_by_the_name_of_the_field(wrong, what):
    with pytest.raises(TypeError, match=what):
        Record.from_json({"key": "k", "config": {}, "command": "", **wrong})


def test_names_of_the_file_that_python_cannot_have():
    row = GateRow.from_json({"gate": "FID", "pass": True})
    assert row.passed and row.to_json() == {"gate": "FID", "pass": True}


def test_nothing_is_kept_as_nothing():
    assert Performance.from_json({"metric": "x", "value": None}).to_json()["value"] is None
    assert "traceback" not in Environment.from_json({"git": {"commit": None}}).to_json()
