"""The speed of a training: what is counted, what is timed, and where it is shown."""

import dataclasses
import json
import time

import pytest
import torch
from torch import nn

from sdxl.bench import peaks
from sdxl.config.load import load as checked
from sdxl.core import records
from sdxl.report import cells, text
from sdxl.report.html.page import page
from sdxl.report.limits import Limits
from sdxl.training import command, loop, speed
from tests.training.test_loop import Stage, settings


class Two(nn.Module):
    """Two layers of 4 x 4, the first of which may stay as it is."""

    def __init__(self, still=False):
        super().__init__()
        self.one, self.other = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.one.requires_grad_(not still)

    def forward(self, x):
        return {"loss": self.other(self.one(x)).square().mean()}


def test_operations_there_and_back_are_counted_without_doing_them():
    product = 2 * 3 * 4 * 4  # of three rows
    x = torch.randn(3, 4)
    assert speed.step_flop(Two(), {"x": x}) == 5 * product  # no gradient of the rows themselves
    assert speed.step_flop(Two(still=True), {"x": x}) == 3 * product
    module = Two()
    speed.step_flop(module, {"x": x})
    assert all(p.grad is None for p in module.parameters())


def test_a_step_waits_for_its_rows_and_evaluations_do_not_count(tmp_path, monkeypatch):
    class Slow(Stage):
        def batch(self, batch, device):
            time.sleep(0.02)
            return super().batch(batch, device)

        def evaluate(self, device):
            time.sleep(1)
            return super().evaluate(device)

    monkeypatch.setattr(peaks, "known", lambda *_: 1e9)
    meter = speed.Meter(settings())
    loop.train(Slow(), settings(), 0, tmp_path, lambda *_: None, meter=meter)
    found = meter.whole()
    assert len(meter.steps) == 12 - speed.WARM
    assert found["step_ms"] >= 20 and found["data_wait"] > 0.5
    assert found["samples_per_s"] == pytest.approx(8 * 10 / sum(meter.steps))
    assert sum(meter.steps) < 1
    flop = speed.step_flop(meter.module, meter.given) / 8
    assert found["tflops"] == pytest.approx(found["samples_per_s"] * flop / 1e12)
    assert found["share_of_peak"] == pytest.approx(found["tflops"] * 1e12 / 1e9)
    assert found["peak_memory_gib"] > 0.01
    assert not speed.Meter(settings()).whole()


def test_a_record_tells_it_and_the_report_shows_it(composed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peaks, "known", lambda *_: 1e12)
    monkeypatch.setattr(command, "SHOW_EVERY_S", 0)
    words = ("train=smoke", "train.scenes=66", "train.size=32", "train.steps=8", "train.batch=2")
    given = checked(composed(*words, "tracking=off", name="train"))
    given = dataclasses.replace(given, seed=3)
    line = command.run(given, tmp_path).line()
    shown = capsys.readouterr().err
    assert "samples_per_s" in shown and "share_of_peak" in shown
    record = records.read(tmp_path / "store/training/smoke/vae/record.json")
    found = record.training
    assert line["record"].endswith("record.json") and found.steps == line["step"] == 8
    assert found.samples_per_s == pytest.approx(line["samples_per_s"], rel=1e-3)
    assert 0 < found.share_of_peak < 1 and found.tflop_per_sample > 0
    assert found.other["measured_steps"] == 6 and "psnr_db" in found.figures
    assert record.config["train"]["batch"] == 2 and record.environment.packages

    whole = cells.load([tmp_path / "store"])
    assert not whole.cells and len(whole.trainings) == 1
    told = json.loads(json.dumps(text.data(whole, Limits())))
    assert told["trainings"][0]["samples_per_s"] == found.samples_per_s
    for view in (text.markdown(whole, Limits()), page(whole, Limits())):
        assert "smoke vae" in view and f"{found.samples_per_s:,.4g}" in view
    text.show(whole, Limits())
    assert "smoke vae" in capsys.readouterr().out
