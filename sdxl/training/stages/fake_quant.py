"""A quantized UNet that can be trained: the numbers of its checkpoint, gradients straight through.

Scales stay those of the checkpoint; only the weights of the quantized layers move. They are rounded
at every forward exactly as the torch backend reads them back, so what is trained is what runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdxl.config.schema import Format
from sdxl.model import checkpoint, codes
from sdxl.model.checkpoint import ATTENTION_PARTS, Checkpoint, StoredLayer


class _Straight(torch.autograd.Function):
    """Rounded values whose gradient is that of the values, where `inside` their range."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rounded: Tensor, inside: Tensor | None) -> Tensor:
        ctx.save_for_backward(*(() if inside is None else (inside,)))
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return (gradient * ctx.saved_tensors[0] if ctx.saved_tensors else gradient), None, None


def straight(values: Tensor, amax: Tensor, fp8: bool) -> Tensor:
    """Activations as INT8 or FP8 hold them; no gradient outside of their range."""
    with torch.no_grad():
        rounded, inside = codes.rounded(values, amax, fp8), values.abs() <= amax
    found: Tensor = _Straight.apply(values, rounded, inside)
    return found


class RoundedLayer(nn.Module):
    """A convolution or Linear whose weight and, unless weight-only, input are rounded."""

    weight: nn.Parameter
    weight_amax: Tensor
    input_amax: Tensor | None
    pre_quant_scale: Tensor | None

    def __init__(self, plain: nn.Conv2d | nn.Linear, entry: StoredLayer, stored: Checkpoint):
        super().__init__()
        self.entry = entry
        self.stride = plain.stride if isinstance(plain, nn.Conv2d) else None
        self.padding: Any = plain.padding if isinstance(plain, nn.Conv2d) else None
        names = ("weight_amax", "input_amax", "pre_quant_scale")
        for name in names:
            self.register_buffer(name, stored.get(entry.name, name), persistent=False)
        weight, factors = plain.weight.detach(), self.pre_quant_scale
        if factors is not None:  # as the quantizer smooths it, in the model's own dtype
            weight = (weight * (1.0 / factors.float())[None, :]).to(weight.dtype)
        self.weight = nn.Parameter(weight.float())
        bias = plain.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), False)

    def forward(self, inputs: Tensor, *_: Any) -> Tensor:
        """The layer in the numbers of its checkpoint."""
        weight = self._rounded_weight().to(inputs.dtype)
        factors, amax = self.pre_quant_scale, self.input_amax
        if factors is not None:
            inputs = inputs * factors.to(inputs.dtype)
        if amax is not None:
            inputs = straight(inputs, amax, self.entry.format is Format.fp8)
        bias = None if self.bias is None else self.bias.to(inputs.dtype)
        if self.stride is None:
            return functional.linear(inputs, weight, bias)
        return functional.conv2d(inputs, weight, bias, self.stride, self.padding)

    def _rounded_weight(self) -> Tensor:
        with torch.no_grad():
            amax = self.weight_amax
            rounded = checkpoint.decode(self.entry, self.codes(), amax, torch.float32)
        found: Tensor = _Straight.apply(self.weight, rounded, None)
        return found

    @torch.no_grad()
    def still(self) -> nn.Conv2d | nn.Linear:
        """The layer as it is, for good: its rounded weight in a module of the plain kind."""
        weight, with_bias = self._rounded_weight(), self.bias is not None
        (wide, narrow), kernel = weight.shape[:2], tuple(weight.shape[2:])
        with torch.device("meta"):
            layer: Any = (
                nn.Linear(narrow, wide, with_bias)
                if self.stride is None
                else nn.Conv2d(narrow, wide, kernel, self.stride, self.padding, bias=with_bias)  # type: ignore[arg-type]
            )
        layer.weight, layer.bias = nn.Parameter(weight, False), self.bias
        for name in ("input_amax", "pre_quant_scale"):  # they go where the layer goes
            layer.register_buffer(name, getattr(self, name), persistent=False)
        layer.register_forward_pre_hook(_round_input(self.entry.format is Format.fp8))
        return layer

    @torch.no_grad()
    def codes(self) -> Tensor:
        """The weight as the checkpoint stores it."""
        return checkpoint.encode(self.entry, self.weight, self.weight_amax)


def _round_input(fp8: bool) -> Any:
    """A hook that smooths and rounds what a layer of `still` is given, where it says so."""

    def hook(layer: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        inputs, *rest = given
        if layer.pre_quant_scale is not None:
            inputs = inputs * layer.pre_quant_scale.to(inputs.dtype)
        if layer.input_amax is not None:
            inputs = straight(inputs, layer.input_amax, fp8)
        return inputs, *rest

    return hook


def student(unet: Any, folder: Path) -> Any:
    """`unet`, unquantized, made into what the checkpoint in `folder` holds, in fp32, trainable."""
    return round_attention(_rounded(unet, Checkpoint(folder)), folder)


def still(unet: Any, folder: Path) -> Any:
    """`student` whose weights do not move, in plain layers that others can be put beside.

    Attention is rounded by `round_attention` after that, so that it sees both.
    """
    made = _rounded(unet, Checkpoint(folder))
    for name, layer in layers(made).items():
        made.set_submodule(name, layer.still())
    return made.requires_grad_(False)


def _rounded(unet: Any, stored: Checkpoint) -> Any:
    unet.requires_grad_(False)
    for name, layer in stored.layers.items():
        if layer.kind != "attention":
            unet.set_submodule(name, RoundedLayer(unet.get_submodule(name), layer, stored))
    return nn.Module.float(unet)


def round_attention(unet: Any, folder: Path) -> Any:
    """The same UNet, with q, k, v and the softmax in FP8 where the checkpoint says so."""
    stored = Checkpoint(folder)
    found = [name for name, layer in stored.layers.items() if layer.kind == "attention"]
    if found:
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())  # shows q, k, v and the softmax
    for name in found:
        amax = {part: stored.tensor(f"{name}.{part}_amax") for part in ATTENTION_PARTS}
        _attention(unet.get_submodule(name), amax)
    return unet


def layers(unet: nn.Module) -> dict[str, RoundedLayer]:
    """The layers that are trained, by name."""
    return {name: m for name, m in unet.named_modules() if isinstance(m, RoundedLayer)}


def write(unet: nn.Module, start: Path, folder: Path) -> None:
    """The checkpoint in `start` with the codes that the weights have now."""
    stored = Checkpoint(start)
    tensors = {name: stored.tensor(name) for name in stored.names}
    for name, layer in layers(unet).items():
        tensors[f"{name}.weight"] = layer.codes().cpu()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write(folder, stored.layers.values(), tensors)


def _attention(module: Any, amax: dict[str, Tensor]) -> None:
    """FP8 on q, k, v (the outputs of their projections) and on the softmax."""
    for part, value in amax.items():  # as buffers they go where the layer goes
        module.register_buffer(f"{part}_amax", value, persistent=False)

    def rounded(values: Tensor, part: str) -> Tensor:
        return straight(values, getattr(module, f"{part}_amax"), True)

    for part in "qkv":
        module.get_submodule(f"to_{part}").register_forward_hook(
            lambda _module, _args, out, part=part: rounded(out, part)
        )
    plain = module.get_attention_scores

    def scores(*args: Any, **kwargs: Any) -> Tensor:
        return rounded(plain(*args, **kwargs), "softmax")

    module.get_attention_scores = scores
