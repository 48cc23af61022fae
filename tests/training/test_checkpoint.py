"""A checkpoint: the room that it takes, what it does not go on with."""

import pytest
import torch
from torch import nn

from sdxl.core.errors import UserError
from sdxl.training import checkpoint


def test_a_training_that_goes_on_needs_no_room_for_what_it_replaces(tmp_path):
    path, module = tmp_path / "checkpoint.safetensors", nn.Linear(512, 512, bias=False)
    average = {"weight": module.weight.detach()}
    given, weights = (path, module, True), 4 * 512 * 512
    assert checkpoint.room_needed(*given, restart=False) == 5 * weights, "weights beside it, too"
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 512)).sum().backward()
    optimizer.step()
    checkpoint.save(path, 1, module, average, optimizer, {})
    assert 4 * weights <= path.stat().st_size < 4.1 * weights
    assert checkpoint.room_needed(*given, restart=False) == 4 * weights, "one is there twice"
    assert checkpoint.room_needed(*given, restart=True) == weights, "the old one goes first"


def test_other_settings_are_said_in_words_that_can_be_typed(tmp_path):
    path, module = tmp_path / "checkpoint.safetensors", nn.Linear(2, 2)
    schedule = {"beta_start": 0.1, "beta_end": 0.2}
    made = {"base_lr": None, "teacher_steps": 20, "seed": 0, "unconditional": ["", "blurry"],
            "schedule": schedule, "timesteps": [*range(999)]}  # fmt: skip
    checkpoint.save(path, 1, module, {}, torch.optim.AdamW(module.parameters()), made)
    checkpoint.refuse_others(path, made)
    asked = {"base_lr": 1e-5, "teacher_steps": 8, "seed": 7, "unconditional": ["", ""],
             "schedule": {**schedule, "beta_end": 0.3}, "timesteps": [1]}  # fmt: skip
    with pytest.raises(UserError, match="other settings: base_lr teacher_steps seed") as caught:
        checkpoint.refuse_others(path, asked)
    problem = caught.value.problems[0]
    assert problem.got.startswith("train.base_lr=1e-05 train.teacher_steps=8 seed=7 ")
    assert problem.expected.startswith("train.base_lr=null train.teacher_steps=20 seed=0 ")
    assert "blurry" in problem.expected and "model.negative_prompt" in problem.expected
    assert "schedule {'beta_end': 0.2} (the model's scheduler_config.json)" in problem.expected
    assert problem.expected.endswith(" ... (model.steps and scheduler)")
    assert len(problem.expected) < 400
