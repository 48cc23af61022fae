"""A checkpoint: the room that it takes."""

import torch
from torch import nn

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
