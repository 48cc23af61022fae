"""Fused blocks against diffusers' own with simulated layers: integers, outputs, what is counted."""

import copy
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton")

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import CrossAttnUpBlock2D, UpBlock2D
from torch import nn

from sdxl.backends.torch import cpu, cuda, fused, resnet, transformer
from sdxl.backends.torch.block import Block
from sdxl.backends.torch.eight_bit import Choice, EightBit
from sdxl.backends.torch.layer import Geometry, Simulated
from sdxl.config.schema import Format
from sdxl.model import codes
from tests import coded
from tests.vnni import needs_vnni

CPU = torch.device("cpu")


def layer_of(name, module, seen, number, smooth):
    """A plain layer quantized with the range of the input it saw; some inputs are clipped."""
    width = module.weight.shape[1]
    factors = None
    if smooth and isinstance(module, nn.Linear):
        factors = torch.rand(width).add(0.5).to(module.weight.dtype)
    weight = module.weight.detach().float()
    if factors is not None:
        weight = weight / factors.float()
    amax = (seen if factors is None else seen * factors).abs().amax().float() * 0.9
    conv = None
    if isinstance(module, nn.Conv2d):
        conv = Geometry(list(module.stride), list(module.padding), [1, 1])
    bias = None if module.bias is None else module.bias.detach()
    return coded.layer(number, weight, amax, module.weight.dtype, factors, bias, conv, name)


class Always(Choice):
    """Takes one kernel for each kind, and notes the codes that each layer is given."""

    def __init__(self, home, kernels):
        super().__init__(CPU)
        self.home, self.kernels, self.given = home, kernels, {}

    def kernel(self, layer, example, residual=None):
        wanted = self.kernels[layer.kind]
        if wanted is cuda.ScaledMm and not wanted.fits(layer):
            wanted = cuda.RowwiseMm
        made = wanted(layer, example)
        if hasattr(made, "product"):
            product = made.product

            def noted(coded, residual=None):
                framed = getattr(made, "framed", False)
                # oneDNN overwrites them
                self.given[layer.name] = (coded[:, :-1, :-1] if framed else coded).clone()
                return product(coded, residual)

            made.product = noted
        return made


def eight_bit(plain, inputs, number, smooth, home, kernels, but=("time_emb_proj",)):
    """`plain` with all Linears and convolutions but some in 8 bits."""
    torch.manual_seed(1)
    block, choice = copy.deepcopy(plain), Always(home, kernels)
    layers = {
        name: layer_of(name, module, inputs[name], number, smooth)
        for name, module in plain.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and name.rpartition(".")[2] not in but
    }
    for name, layer in layers.items():
        owner, _, field = name.rpartition(".")
        setattr(block.get_submodule(owner), field, EightBit(layer, choice))
    return block, choice, layers


def watch_inputs(block, *given, **named):
    """The input of every Linear and convolution in one call."""
    inputs = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | EightBit)
    ]
    out = block(*given, **named)
    for hook in hooks:
        hook.remove()
    return out, inputs


def expected_codes(layer, values):
    smoothed = values if layer.input.factors is None else values * layer.input.factors
    find = codes.fp8_codes if layer.format is Format.fp8 else codes.integer_codes
    return find(smoothed, layer.input.amax)


def assert_same_integers(choice, layers, inputs, share):
    """Every layer that got codes got the simulated layer's, but for ties and what led to them."""
    assert choice.given
    for name, found in choice.given.items():
        part = name.split("+")[0]
        if part not in inputs:
            continue
        values = inputs[part]
        values = values.permute(0, 2, 3, 1) if values.dim() == 4 else values
        wanted = expected_codes(layers[part], values).reshape(found.shape).float()
        apart = (found.float() != wanted).float().mean()
        assert apart <= share, f"{name}: {float(apart):.2%} of the codes differ"


CASES = [
    pytest.param(cuda, cuda.TritonLinear, Format.int8, True, id="triton int8"),
    pytest.param(cuda, cuda.TritonLinear, Format.fp8, False, id="triton fp8"),
    pytest.param(cuda, cuda.ScaledMm, Format.fp8, False, id="scaled_mm fp8"),
    pytest.param(cpu, cpu.OneDnnLinear, Format.int8, True, id="onednn int8", marks=needs_vnni),
    pytest.param(cpu, cpu.IntMm, Format.int8, False, id="int_mm int8, one input"),
]


@pytest.mark.parametrize(("home", "kernel", "number", "smooth"), CASES)
@torch.inference_mode()
def test_a_transformer_block(home, kernel, number, smooth):
    torch.manual_seed(0)
    plain = BasicTransformerBlock(32, 2, 16, cross_attention_dim=48, activation_fn="geglu").eval()
    hidden, context = torch.randn(2, 5, 32), torch.randn(2, 3, 48)
    _, inputs = watch_inputs(plain, hidden, None, context)
    simulated, _, layers = eight_bit(plain, inputs, number, smooth, home,
                                     {"linear": Simulated})  # fmt: skip
    expected, inputs = watch_inputs(simulated, hidden, None, context)
    block, choice, _ = eight_bit(plain, inputs | watch_inputs(plain, hidden, None, context)[1],
                                 number, smooth, home, {"linear": kernel})  # fmt: skip
    network = nn.ModuleList([block])
    fused.fuse(network, choice)
    assert isinstance(network[0], Block)
    joined = {} if smooth else {"joined qkv": 1, "joined kv": 1}
    assert choice.fused == Counter(blocks=1, **joined) and not choice.unfused
    bound = 2e-2 * float(expected.abs().max())  # a code on the other side of a tie, now and then
    for call in range(2):  # the first chooses kernels and gets values, the second gets codes
        choice.given.clear()
        found = network[0](hidden, encoder_hidden_states=context, timestep=None)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= bound, call
        assert (found - expected).abs().mean() <= bound / 20, call
    assert_same_integers(choice, layers, inputs, share=0.02)


@pytest.mark.parametrize("number", [Format.int8, Format.fp8])
@pytest.mark.parametrize("outputs", [8, 16])
@torch.inference_mode()
def test_a_residual_block(number, outputs):
    torch.manual_seed(0)
    plain = ResnetBlock2D(in_channels=8, out_channels=outputs, temb_channels=12, groups=4).eval()
    image, temb = torch.randn(2, 8, 4, 3), torch.randn(2, 12)
    _, inputs = watch_inputs(plain, image, temb)
    kernels = {"conv": Simulated, "linear": Simulated}
    simulated, _, layers = eight_bit(plain, inputs, number, False, cuda, kernels)
    expected, seen = watch_inputs(simulated, image, temb)
    block, choice, _ = eight_bit(plain, inputs, number, False, cuda,
                                 {"conv": cuda.TritonConv})  # fmt: skip
    network = nn.ModuleList([block])
    fused.fuse(network, choice)
    assert isinstance(network[0], resnet.Resnet) and choice.fused == Counter(resnets=1)
    for _ in range(2):
        found = network[0](image, temb)
        assert (found - expected).abs().max() <= 2e-2 * expected.abs().max()
    assert_same_integers(choice, layers, seen, share=0.02)


@pytest.mark.parametrize("number", [Format.int8, Format.fp8])
@pytest.mark.parametrize("crossed", [False, True], ids=["plain", "crossed"])
@pytest.mark.parametrize("shortcut", [False, True], ids=["8-bit shortcut", "plain shortcut"])
@torch.inference_mode()
def test_the_way_up_joins_nothing_by_copying(number, crossed, shortcut, monkeypatch):
    torch.manual_seed(0)
    sizes = {"in_channels": 8, "prev_output_channel": 16, "out_channels": 8, "temb_channels": 12,
             "num_layers": 2, "resnet_groups": 4}  # fmt: skip
    cross = {"num_attention_heads": 2, "cross_attention_dim": 12, "use_linear_projection": True}
    plain = (CrossAttnUpBlock2D(**sizes, **cross) if crossed else UpBlock2D(**sizes)).eval()
    given = {
        "hidden_states": torch.randn(2, 16, 4, 3), "temb": torch.randn(2, 12),
        "res_hidden_states_tuple": (torch.randn(2, 8, 4, 3), torch.randn(2, 8, 4, 3)),
    }  # fmt: skip
    if crossed:
        given["encoder_hidden_states"] = torch.randn(2, 3, 12)
    left = ("time_emb_proj", "conv_shortcut") if shortcut else ("time_emb_proj",)
    _, inputs = watch_inputs(plain, **given)
    arguments = (plain, inputs, number, False, cuda)
    kernels = {"conv": cuda.TritonConv, "linear": Simulated}
    expected, *_ = eight_bit(*arguments, {"conv": Simulated, "linear": Simulated}, left)
    expected = expected(**given)
    block, choice, _ = eight_bit(*arguments, kernels, left)
    network = nn.ModuleList([block])
    fused.fuse(network, choice)
    assert isinstance(network[0], resnet.Up)
    assert choice.fused["skips beside"] == choice.fused["resnets"] == 2
    network[0](**given)  # chooses kernels
    if shortcut:
        monkeypatch.setattr(torch, "cat", lambda *_, **__: pytest.fail("a copy"))
    found = network[0](**given)
    assert found.shape == expected.shape == (2, 8, 8, 6)
    assert (found - expected).abs().max() <= 2e-2 * expected.abs().max()


@pytest.mark.parametrize("number", [Format.int8, Format.fp8])
@torch.inference_mode()
def test_a_transformer_turns_no_image(number):
    torch.manual_seed(0)
    plain = Transformer2DModel(2, 16, in_channels=32, cross_attention_dim=48, norm_num_groups=4,
                               use_linear_projection=True).eval()  # fmt: skip
    image = torch.randn(2, 32, 3, 4).to(memory_format=torch.channels_last)
    given = {"encoder_hidden_states": torch.randn(2, 3, 48), "return_dict": False}
    _, inputs = watch_inputs(plain, image, **given)
    arguments = (plain, inputs, number, False, cuda)
    expected, *_ = eight_bit(*arguments, {"linear": Simulated})
    (expected,) = expected(image, **given)
    block, choice, _ = eight_bit(*arguments, {"linear": cuda.TritonLinear})
    network = nn.ModuleList([block])
    fused.fuse(network, choice)
    assert isinstance(network[0], transformer.Transformer)
    assert choice.fused["transformers"] == 1 and not choice.unfused
    bound = 2e-2 * float(expected.abs().max())
    for _ in range(2):  # the first chooses kernels, the second gets codes
        choice.given.clear()
        (found,) = network[0](image, **given)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (found - expected).abs().max() <= bound
    assert "proj_in" in choice.given and "proj_out" in choice.given


def test_what_is_not_fused_is_counted_with_its_reason():
    block = BasicTransformerBlock(32, 2, 16, cross_attention_dim=48, activation_fn="geglu")
    network = nn.ModuleList([block, ResnetBlock2D(in_channels=8, temb_channels=12, groups=4)])
    choice = SimpleNamespace(home=cpu, fused=Counter(), unfused=Counter())
    fused.fuse(network, choice)
    assert not choice.fused
    assert dict(choice.unfused) == {
        "a transformer block without 8-bit layers": 1,
        "a residual block without 8-bit convolutions": 1,
    }
