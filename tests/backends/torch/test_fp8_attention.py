"""FP8 attention of level 4: the kernel, interpreted, beside the simulated layer."""

import copy

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton")

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor

from sdxl.backends.torch import cpu, cuda, fp8_attention, fused
from sdxl.backends.torch.simulated import _round_attention
from sdxl.config.schema import Format
from tests.backends.torch.test_fused import eight_bit, watch_inputs

CPU = torch.device("cpu")
RANGES = {"q": 2.0, "k": 2.5, "v": 1.5, "softmax": 0.9}
"""Less than what is seen: some values are clipped."""


class Stored:
    """As much of a checkpoint as attention reads."""

    def tensor(self, name):
        return torch.tensor(RANGES[name.rpartition(".")[2].removesuffix("_amax")])


def simulate(attn, name):
    attn.set_processor(AttnProcessor())
    _round_attention(attn, name, Stored(), CPU)


def assert_alike(found, expected):
    assert found.shape == expected.shape
    bound = 2e-2 * float(expected.abs().max())  # a code on the other side of a tie, now and then
    assert (found - expected).abs().max() <= bound
    assert (found - expected).abs().mean() <= bound / 20


@pytest.mark.parametrize("context", [False, True], ids=["self", "cross"])
@torch.inference_mode()
def test_a_layer(context):
    torch.manual_seed(0)
    plain = Attention(24, 40 if context else None, heads=3, dim_head=8).eval()
    hidden, text = torch.randn(2, 37, 24) * 4, torch.randn(2, 77, 40) * 4 if context else None
    expected, ours = copy.deepcopy(plain), copy.deepcopy(plain)
    simulate(expected, "layer")
    assert fp8_attention.why_not(ours, cuda, CPU) is None
    fp8_attention.install(ours, "layer", Stored(), CPU)
    rounded = expected(hidden, encoder_hidden_states=text)
    assert_alike(ours(hidden, encoder_hidden_states=text), rounded)
    unrounded = plain(hidden, encoder_hidden_states=text)
    assert (rounded - unrounded).abs().max() > 5e-2 * unrounded.abs().max(), "rounding shows"


@torch.inference_mode()
def test_a_block_is_fused_around_it():
    torch.manual_seed(0)
    plain = BasicTransformerBlock(32, 2, 16, cross_attention_dim=48, activation_fn="geglu").eval()
    hidden, context = torch.randn(2, 5, 32), torch.randn(2, 3, 48)
    _, inputs = watch_inputs(plain, hidden, None, context)
    kernels = {"linear": cuda.TritonLinear}
    expected, _, _ = eight_bit(plain, inputs, Format.fp8, False, cuda, kernels)
    block, choice, _ = eight_bit(plain, inputs, Format.fp8, False, cuda, kernels)
    for name in ("attn1", "attn2"):
        simulate(expected.get_submodule(name), name)
        fp8_attention.install(block.get_submodule(name), name, Stored(), CPU)
    network = torch.nn.ModuleList([block])
    fused.fuse(network, choice)
    assert choice.fused["blocks"] == 1 and not choice.unfused
    for _ in range(2):  # the second time its norms write codes
        found = network[0](hidden, encoder_hidden_states=context)
        assert_alike(found, expected(hidden, encoder_hidden_states=context))


def test_what_the_kernel_does_not_compute_is_refused(monkeypatch):
    layer = Attention(24, heads=3, dim_head=8)
    assert "on this device" in fp8_attention.why_not(layer, cpu, CPU)
    normed = Attention(24, heads=3, dim_head=8, norm_num_groups=4)
    assert "another kind" in fp8_attention.why_not(normed, cuda, CPU)
    fp8_attention._inexact.cache_clear()
    kernel = fp8_attention.TritonAttention
    right = kernel.computed
    monkeypatch.setattr(kernel, "computed", lambda *given: right(*given) * 1.02)
    assert "no exact" in fp8_attention.why_not(layer, cuda, CPU)
    fp8_attention._inexact.cache_clear()


@pytest.mark.parametrize("faster", [True, False])
def test_it_is_used_where_it_is_faster_and_told_where_not(faster, monkeypatch):
    from sdxl.backends.torch.kernels import tuning

    noted = []
    amax = {part: torch.tensor(value) for part, value in RANGES.items()}
    layer = fp8_attention.TritonAttention(amax, CPU, noted.append)
    given = [torch.randn(1, 2, 20, 16) for _ in range(3)]
    expected = layer.computed(*given)
    times = iter([1.0, 2.0] if faster else [2.0, 1.0])
    with monkeypatch.context() as patched:
        patched.setattr(tuning, "interpreted", lambda: False)
        patched.setattr(tuning, "milliseconds", lambda run: next(times))
        patched.setattr(fp8_attention, "_eight_bit", {})
        patched.setattr(layer, "computed", lambda *_: expected)
        found = layer.attend(*given)
        layer.attend(*given)  # times no more
    plain = torch.nn.functional.scaled_dot_product_attention(*given)
    assert torch.equal(found, expected if faster else plain)
    assert set(noted) == (set() if faster else {"16-bit attention"})
