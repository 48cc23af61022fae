"""A sweep's cells in this process, without Hydra around them."""

import dataclasses

import pytest

from sdxl.core import records
from sdxl.run import identity
from sdxl.run.sweep.run import Sweep


@pytest.mark.parametrize(("written", "code"), [(True, 0), (False, 1)])
def test_ctrl_c_after_a_record_does_not_undo_it(tmp_path, written, code):
    sweep = Sweep("run", ["backend=fake", "seed=1,2", f"hydra.sweep.dir={tmp_path}"])
    cell, other = sweep.cells
    folder = sweep.folder / "0"

    def work(say):
        if written:
            record = dataclasses.replace(identity.new(cell.config), status="ok")
            records.write(record, folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.measure(folder, work)
    assert (cell.outcome.exit_code, cell.status) == (code, ("ok", "failed")[code])
    assert other.outcome is None and [each.exit_code for each in sweep.outcomes()] == [code, 1]
