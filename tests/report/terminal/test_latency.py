"""Time per stage, and the table of a latency experiment."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sdxl.bench import stage_clock
from sdxl.core.command import Outcome
from sdxl.core.record import Performance, Record
from sdxl.report.terminal import latency
from sdxl.report.terminal.latency import Timed


class Slow:
    """Stages that take a known time."""

    def encode(self, ids):
        time.sleep(0.02)
        return ids

    def unet(self, sample):
        time.sleep(0.01)
        return sample

    def describe(self):
        return {"backend": "slow"}


class Generator:
    def __init__(self):
        self.stages = Slow()

    def generate(self):
        assert not hasattr(self.stages, "denoise")
        self.stages.encode(1)
        return [self.stages.unet(each) for each in range(3)]


def test_each_stage_has_its_time_and_the_rest_is_the_batch_without_them():
    generator = Generator()
    stages = generator.stages
    with stage_clock.watching(generator) as watched:
        assert generator.generate() == [0, 1, 2]
        assert generator.stages.describe() == {"backend": "slow"}
    assert generator.stages is stages
    found = stage_clock.milliseconds(watched, seconds=10.0)
    assert found["unet_calls"] == 3
    assert found["encode"] >= 20
    assert found["unet"] >= 30
    assert found["rest"] == pytest.approx(1e4 - found["encode"] - found["unet"], abs=0.01)


def test_a_generator_without_stages_has_no_times():
    with stage_clock.watching(object()) as watched:
        assert watched is None
    assert stage_clock.milliseconds(watched, 1.0) == {}


def cell(batch, backend, quant, median):
    config = {"precision": {"unet": "fp32"}}
    record = Record("key", config, "python run.py", status="ok")
    record.performance = Performance(
        latency_ms={"p50": median, "mean": median + 1},
        stage_ms={"encode": 1.0, "unet": 40.0, "decode": 3.0, "rest": 2.0, "unet_calls": 20},
    )
    return Timed(batch, backend, quant, record, Path("record.json"))


def test_speed_ups_are_over_both_bases_of_the_same_batch():
    rows = latency.table([
        cell(2, "torch", "none", 900.0), cell(1, "torch", "none", 300.0),
        cell(1, "ort", "none", 200.0), cell(1, "ort", "int8", 100.0),
        cell(2, "ort", "int8", 300.0),
    ])  # fmt: skip
    found = {(row[0], row[1]): dict(zip(latency.HEADINGS, row, strict=True)) for row in rows}
    assert [row[0] for row in rows] == ["1", "1", "1", "2", "2"]
    assert found["1", "ort fp32"]["x framework"] == "1.50"
    assert found["1", "ort int8"]["x framework"] == "3.00"
    assert found["1", "ort int8"]["x floats"] == "2.00"
    assert found["2", "ort int8"]["x framework"] == "3.00"
    assert found["2", "ort int8"]["x floats"] == ""  # was not measured
    assert found["1", "ort int8"]["unet"] == "20 x 2.00"


def test_other_multiruns_end_without_it(tmp_path, capsys):
    latency.show([Outcome(command="python run.py seed=1")], tmp_path)
    assert not capsys.readouterr().out
    assert not list(tmp_path.iterdir())
