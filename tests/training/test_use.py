"""The line that a training prints: it parses, and what it composes is what was trained."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from sdxl.config.load import load as checked
from sdxl.config.plugins import training_stage
from sdxl.quant import build
from sdxl.training import use

MADE = [Path(f"/runs/a b/step_num={n}-samples_count={n}") for n in (2, 4)]
MODEL = ("model=sdxl", "model.path=/data/my sdxl", "model.negative_prompt='blurry, \"low\"'",
         "model.height=768", "model.vae=/data/vae", "seed=7")  # fmt: skip
INT8 = ("quant=int8", "quant_level=3", "calib_size=2", "quant.exclude=[conv_in,time]",
        "precision=fp16", "scheduler=euler", "scheduler.spacing=trailing",
        "model.steps=4")  # fmt: skip


def words(composed, stage, made, *typed):
    """Those of the line of a stage behind `python run.py`."""
    given = checked(composed(f"train={stage}", "tracking=off", *typed, name="train"))
    line = shlex.split(training_stage(stage).drawing(given, made))
    assert line[:2] == ["python", "run.py"]
    return given, line[2:]


@pytest.mark.parametrize(("stage", "others"), [
    ("finetune", {"unet": str(MADE[0])}),
    ("lora", {"lora": str(MADE[0])}),
    ("distill", {"unet": str(MADE[0]), "steps": 4, "guidance": 1.0}),
    ("qat", {}),
])  # fmt: skip
def test_it_draws_with_the_model_that_was_trained(composed, stage, others):
    recipe = INT8 if stage == "qat" else ()
    given, line = words(composed, stage, MADE[:1], *MODEL, *recipe)
    drawn = checked(composed(*line))
    assert drawn.model == dataclasses.replace(given.model, **others)
    assert drawn.seed == given.seed
    if stage == "qat":
        assert drawn.quant.tuned == str(MADE[0])
        assert drawn.quant == dataclasses.replace(given.quant, tuned=str(MADE[0]))
        assert (drawn.precision, drawn.scheduler) == (given.precision, given.scheduler)


def test_a_tuned_checkpoint_is_measured_with_the_recipe_that_it_began_with(composed):
    given, line = words(composed, "qat", MADE[:1], "model=tiny_random", *INT8, "seed=3")
    plain = [word for word in line if not word.startswith("quant.tuned=")]
    assert build.key_of(checked(composed(*plain))) == build.key_of(given)


def test_a_series_that_does_not_tell_its_recipe_has_no_line(composed):
    given, _ = words(composed, "qat", MADE, "model=tiny", "quant=int8")
    for typed, told in ((["train=qat", "quant=int8"], True), (["train=qat"], False)):
        problem = use.elsewhere(given, Path("/runs"), MADE, typed).problems[0]
        assert bool(problem.fix) == told and ("quant= as the training" in problem.expected) != told


def test_a_lora_is_drawn_beside_those_that_it_began_with(composed):
    before = ("model=scenes", "model.lora=[/a,/b@0.5]", "model.lora_scale=0.7")
    _, line = words(composed, "lora", MADE[:1], *before)
    drawn = checked(composed(*line))
    assert drawn.model.lora == ["/a@0.7", "/b@0.5", str(MADE[0])] and drawn.model.lora_scale == 1


def test_several_are_a_sweep(composed):
    from sdxl.config.words import expand

    _, line = words(composed, "finetune", MADE, "model=tiny")
    assert line[0] == "-m"
    each = [word for word in line if word.startswith("model.unet=")]
    found = [checked(composed("model=tiny", word)).model.unet for word in expand(each[0])]
    assert found == [str(path) for path in MADE]
