"""Layers beside those of a network add what PEFT's own do."""

import pytest
import torch
from torch import nn

from sdxl.training import adapters


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

    def forward(self, x):
        return self.linear(self.conv(x).permute(0, 2, 3, 1))


@pytest.mark.parametrize("arithmetic", [torch.float32, torch.bfloat16])
def test_layers_add_what_pefts_own_add_and_learn_the_same(arithmetic):
    torch.manual_seed(0)
    network, x = Network(), torch.randn(2, 3, 8, 8)
    adapters.put(network, ["conv", "linear"], rank=2, alpha=6.0)
    learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
    for parameter in learning.values():
        nn.init.normal_(parameter)

    def made():
        with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic is torch.bfloat16):
            out = network(x)
        return [out, *torch.autograd.grad(out.float().square().mean(), [*learning.values()])]

    ours = made()
    assert network.linear.lora_variant and not network.conv.lora_variant
    network.linear.lora_variant.clear()
    assert len(learning) == 4 and ours[0].dtype is arithmetic
    near = 1e-5 if arithmetic is torch.float32 else 0.02
    for one, other in zip(ours, made(), strict=True):
        assert (one - other).abs().max() <= near * other.abs().max()


def test_layers_begin_without_effect():
    network, x = Network(), torch.randn(1, 3, 4, 4)
    before = network(x)
    adapters.put(network, ["linear"], rank=2, alpha=2.0)
    assert torch.equal(network(x), before)
