"""The table of a record: its lines say what was measured, not what was configured."""

import pytest
from rich.console import Console

from sdxl.core import terminal
from sdxl.core.command import Outcome
from sdxl.core.record import Counts, GateRow, Performance
from sdxl.report.terminal import table
from sdxl.run import identity


def test_the_warm_up_line_names_the_batch_that_was_drawn(load, capsys):
    """Three prompts make no batch of eight."""
    record = identity.new(load("limit=3"))
    for prompts, drawn in ((3, 3), (50, 8)):
        record.performance = Performance(
            stage_ms={"encode": 1.0, "unet": 40.0, "decode": 2.0, "unet_calls": 20},
            batch_size=8,
            prompts=prompts,
            counts=Counts(done=prompts, batches=1),
        )
        table.show(record, "out")
        assert f"unet 20 x 2.0, decode 2.0 ms in a warm-up batch of {drawn}" in (
            capsys.readouterr().out
        )


def test_a_baselines_table_is_titled_as_such(load, capsys):
    record = identity.new(load("quant=int8", "quant_level=3"))
    table.show(record, "out/0")
    assert "tiny_random on torch, Offline, int8 level 3" in capsys.readouterr().out
    table.show(identity.new(load()), "out/0/baseline")
    assert "the unquantized baseline: tiny_random on torch" in capsys.readouterr().out


def test_the_verdict_is_shown_where_it_is_asked_for(load, capsys):
    row = GateRow("min_duration", "600 s", "1 s", "-599 s", False, "round")
    for words, asked in (((), False), (("scenario.min_duration_ms=600000",), True)):
        record = identity.new(load(*words))
        record.verdict = [row]
        table.show(record, "out")
        assert ("0 of 1 gates" in capsys.readouterr().out) == asked


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_cells_of_a_sweep_keep_their_headings_and_numbers(width, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "console", lambda **_: Console(width=width, markup=False))
    figures = {"images_per_second": 5.9071, "speed_up": 0.957, "psnr_db": 42.989}
    simulated = {**figures, "speed_means_nothing": "quantized arithmetic was simulated"}
    cells = [
        Outcome(command=f"python run.py quant_level={n} alpha=0.5", figures=each, reason=reason)
        for n, each, reason in ((1, figures, None), (2.5, simulated, "a very long reason " * 5))
    ]
    table.show_cells(cells)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    for whole in (" status ", " images/s ", " speed-up ", " PSNR dB ", " reason ", " 5.907 ",
                  "(5.907)", "(0.957)", " 42.989 ", "means nothing"):  # fmt: skip
        assert whole in shown, whole
