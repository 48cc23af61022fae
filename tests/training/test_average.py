"""The average of the weights, and what it adds to the memory of a training."""

import dataclasses

import pytest

from sdxl.config.load import load as checked
from sdxl.training import average, loop, machine
from sdxl.training.stages import finetune, lora, sd2_mlperf
from tests.training.test_loop import Stage, settings


@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_memory_of_a_state_is_what_a_training_holds(ema, tmp_path):
    given = settings(ema=ema, steps=1)
    trainer = loop.Trainer(machine.accelerator(given), Stage(), given, 0, tmp_path, print, {})
    batch = loop.Batch(0, loop.rows_of(0, 8, 40, 0), slice(0, 8), 8, 0)
    trainer.module(**trainer.stage.batch(batch, "cpu"))["loss"].backward()
    trainer.optimizer.step()
    every = [*trainer.module.parameters()]
    held = [*every, *(p.grad for p in every), *trainer.average.values()]
    for state in trainer.optimizer.optimizer.state.values():
        held += [state["exp_avg"], state["exp_avg_sq"]]
    count = sum(p.numel() for p in every)
    assert average.state_bytes(count, ema) == sum(value.nbytes for value in held)


@pytest.mark.parametrize("stage", [finetune, lora, sd2_mlperf])
def test_a_plan_counts_an_average_where_there_is_one(composed, stage, monkeypatch):
    words = (f"train={stage.__name__.rpartition('.')[2]}", "model=tiny", "plan=true")
    given = checked(composed(*words, name="train"))
    monkeypatch.setattr(average, "state_bytes", lambda _, decay: 2**31 if decay else 2**30)
    for ema, gib in ((None, 1), (0.9, 2)):
        asked = dataclasses.replace(given, train=dataclasses.replace(given.train, ema=ema))
        assert stage.plan(asked)["state_gib"] == pytest.approx(gib, abs=0.05)
