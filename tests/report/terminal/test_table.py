"""The table of a record: its lines say what was measured, not what was configured."""

from sdxl.core.record import Counts, Performance
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
