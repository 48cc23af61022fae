"""FP8 attention of level 4: the kernel, interpreted, beside the simulated layer."""

import copy

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton")

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor

from sdxl.backends.torch import attention, config, cpu, cuda, fp8_attention, fused
from sdxl.backends.torch import clock as timing
from sdxl.backends.torch.eight_bit import Choice
from sdxl.backends.torch.kernels import tuning
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
    fp8_attention._why_not_exact.cache_clear()
    kernel = fp8_attention.TritonAttention
    right = kernel.in_fp8
    monkeypatch.setattr(kernel, "in_fp8", lambda *given: right(*given) * 1.02)
    assert "off by" in fp8_attention.why_not(layer, cuda, CPU)
    fp8_attention._why_not_exact.cache_clear()

    def broken(*_):
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(kernel, "in_fp8", broken)
    said = fp8_attention.why_not(layer, cuda, CPU)
    assert said.endswith("on this device: RuntimeError: no such instruction and more")
    fp8_attention._why_not_exact.cache_clear()


@pytest.mark.parametrize("faster", ["triton_attention", fp8_attention.PLAIN])
def test_what_is_faster_is_kept_and_reported(monkeypatch, faster):
    """On a GPU; here the clock is made up and the kernel interpreted."""
    choice = Choice(CPU)
    layer = Attention(24, heads=3, dim_head=8).eval()
    hidden = torch.randn(2, 7, 24)
    plain = layer(hidden)
    report = choice.attends("layer")
    fp8_attention.install(layer, "layer", Stored(), CPU, report)
    in_fp8 = layer(hidden)
    attention.install([layer], config.Attention.math, CPU)
    monkeypatch.setattr(tuning, "interpreted", lambda: False)
    monkeypatch.setattr(tuning, "fastest", lambda key, run, tiles, outputs, small: small)
    monkeypatch.setattr(fp8_attention, "_times", {})

    def clock(run, device):
        run()
        kernel = getattr(getattr(run, "func", None), "__name__", "") == "in_fp8"
        return 1.0 if kernel == (faster == "triton_attention") else 2.0

    monkeypatch.setattr(timing, "ms", clock)
    found = layer(hidden)
    told = choice.describe()
    assert torch.equal(found, in_fp8) == (faster == "triton_attention")
    (shape,) = told["shapes"]
    assert shape["chosen"] == faster and set(shape["ms"].values()) == {1.0, 2.0}
    assert told["layers"] == {"layer": faster} and told["simulated_layers"] == 0
    if faster == fp8_attention.PLAIN:
        torch.testing.assert_close(found, plain)
        assert told["wide"] == {"attention: 16 bits are faster": 1} and told["real_layers"] == 0
    else:
        assert told["wide"] == {} and told["real_layers"] == 1
