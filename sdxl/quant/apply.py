"""A ModelOpt-quantized UNet from scales, and its compact checkpoint.

ModelOpt replaces the modules and simulates the numbers; which modules and which scales is decided
here, by exact name, and checked afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdxl.config import schema
from sdxl.config.schema import Format
from sdxl.core import memory
from sdxl.core.errors import SdxlError
from sdxl.model import checkpoint
from sdxl.model.checkpoint import StoredLayer
from sdxl.quant.levels import Kind, Layer
from sdxl.quant.scales import LayerScales, check_fits, scales_of
from sdxl.quant.statistics import Statistics

_INT8: dict[str, Any] = {"num_bits": 8, "axis": None}
_FP8: dict[str, Any] = {"num_bits": (4, 3), "axis": None}
_WEIGHTS: dict[Format, dict[str, Any]] = {
    Format.int8: {"num_bits": 8, "axis": 0},
    Format.int8_weight_only: {"num_bits": 8, "axis": 0},
    Format.fp8: _FP8,
}
ATTENTION_QUANTIZERS = {
    "q": "q_bmm_quantizer",
    "k": "k_bmm_quantizer",
    "v": "v_bmm_quantizer",
    "softmax": "softmax_quantizer",
}


def quantize(
    unet: Any,
    layers: list[Layer],
    statistics: Statistics | None,
    quant: schema.Quant,
    formats: dict[str, Format] | None = None,
) -> Any:
    """Quantize `unet` in place: exactly `layers`, with scales from `statistics`.

    `formats`: a number format per layer in place of `quant.format`.

    Raises `UserError` for statistics of another model, `SdxlError` if the result is not exactly
    what was asked for.
    """
    if statistics:
        check_fits(statistics, unet, layers)
    if any(layer.kind is Kind.attention for layer in layers):
        from diffusers.models.attention_processor import AttnProcessor

        # ModelOpt sees the softmax only where attention is two products, not a fused kernel.
        unet.set_attn_processor(AttnProcessor())
    _convert(unet)
    for layer in layers:
        module = unet.get_submodule(layer.name)
        weight = None if layer.kind is Kind.attention else module.weight
        recipe = recipe_of(layer, quant, formats)
        scales = scales_of(layer, weight, statistics, recipe)
        if layer.kind is Kind.attention:
            if not hasattr(module, "q_bmm_quantizer"):
                raise SdxlError(
                    "ModelOpt did not load its diffusers plugin, so attention stays as it is",
                    "an import that failed, probably of onnx",
                    "the tested set of packages",
                    "pip install -c constraints.txt -e .",
                )
            for part, quantizer in ATTENTION_QUANTIZERS.items():
                _enable(getattr(module, quantizer), _FP8, scales.parts[part].to(unet.dtype))
        else:
            _quantize_layer(module, scales, recipe)
        memory.give_back()
    check(unet, layers, quant)
    return unet


def recipe_of(layer: Layer, quant: schema.Quant, formats: dict[str, Format] | None) -> schema.Quant:
    """The recipe with this layer's own number format."""
    return dataclasses.replace(quant, format=formats[layer.name]) if formats else quant


def check(unet: nn.Module, layers: Iterable[Layer], quant: schema.Quant) -> None:
    """Expected, enabled and calibrated quantizers are the same set, and every amax is usable.

    Raises `SdxlError` naming modules; this also catches a norm layer that got quantized.
    """
    from modelopt.torch.quantization.nn import TensorQuantizer

    expected = set(quantizers_of(layers, quant))
    enabled, broken = set(), []
    for name, module in unet.named_modules():
        if isinstance(module, TensorQuantizer) and module.is_enabled:
            enabled.add(name)
            amax = module.amax
            usable = amax is not None and bool(torch.isfinite(amax).all() and (amax >= 0).all())
            # A dead output channel of a weight is harmless; a dead input is a broken calibration.
            usable = usable and bool((amax > 0).any())
            scale = module.pre_quant_scale
            if scale is not None:
                usable = usable and bool(torch.isfinite(scale).all() and (scale > 0).all())
            if not usable:
                broken.append(name)
    for what, names in (
        ("quantized though not selected", enabled - expected),
        ("selected but not quantized", expected - enabled),
        ("without a finite, positive range", broken),
    ):
        if names:
            raise SdxlError(
                f"{len(names)} quantizers are {what}",
                ", ".join(sorted(names)[:10]),
                f"{len(expected)} quantizers of the selected layers",
            )


def quantizers_of(layers: Iterable[Layer], quant: schema.Quant) -> Iterator[str]:
    """Full names of the quantizers that must be on."""
    for layer in layers:
        if layer.kind is Kind.attention:
            yield from (f"{layer.name}.{name}" for name in ATTENTION_QUANTIZERS.values())
        else:
            yield f"{layer.name}.weight_quantizer"
            if not quant.format.weight_only:
                yield f"{layer.name}.input_quantizer"


def write(
    unet: Any,
    layers: Iterable[Layer],
    quant: schema.Quant,
    folder: Path,
    formats: dict[str, Format] | None = None,
) -> None:
    """Write the compact checkpoint of a quantized UNet; weights leave memory as they are encoded.

    The UNet cannot be used afterwards.
    """
    stored, tensors = [], {}
    for layer in layers:
        module = unet.get_submodule(layer.name)
        recipe = recipe_of(layer, quant, formats)
        entry = StoredLayer(layer.name, layer.kind.value, recipe.format)
        if layer.kind is Kind.attention:
            for part, quantizer in ATTENTION_QUANTIZERS.items():
                tensors[f"{layer.name}.{part}_amax"] = getattr(module, quantizer).amax.cpu()
        else:
            entry = _stored(layer, module, recipe)
            amax = module.weight_quantizer.amax
            if recipe.format is Format.int4_weight_only:
                amax = amax.reshape(len(module.weight), -1, 1)
            weight = module.weight.detach()
            tensors[f"{layer.name}.weight"] = checkpoint.encode(entry, weight, amax).cpu()
            tensors[f"{layer.name}.weight_amax"] = amax.cpu()
            module._parameters["weight"] = None
            inputs = module.input_quantizer
            if inputs.is_enabled:
                tensors[f"{layer.name}.input_amax"] = inputs.amax.cpu()
                if inputs.pre_quant_scale is not None:
                    tensors[f"{layer.name}.pre_quant_scale"] = inputs.pre_quant_scale.cpu()
            memory.give_back()
        stored.append(entry)
    for name, parameter in unet.named_parameters():
        tensors[name] = parameter.detach().cpu()
    checkpoint.write(folder, stored, tensors)


def save_modelopt(unet: nn.Module, file: Path) -> None:
    """ModelOpt's own checkpoint: full-size weights and quantizer states."""
    import modelopt.torch.opt as mto

    mto.save(unet, file)


def _convert(unet: nn.Module) -> None:
    """ModelOpt's quantizable modules with every quantizer off."""
    import modelopt.torch.quantization as mtq

    with contextlib.redirect_stdout(io.StringIO()):  # the last line of stdout is ours
        mtq.quantize(
            unet, {"quant_cfg": [{"quantizer_name": "*", "enable": False}], "algorithm": None}
        )


def _quantize_layer(module: Any, scales: LayerScales, quant: schema.Quant) -> None:
    if scales.smooth is not None:
        module.weight.data.copy_(
            (module.weight * (1.0 / scales.smooth)[None, :]).to(module.weight.dtype)
        )
        module.input_quantizer._enable_pre_quant_scale = True
        module.input_quantizer.pre_quant_scale = scales.smooth.to(module.weight.dtype)
    if scales.input_amax is not None:
        settings = _FP8 if quant.format is Format.fp8 else _INT8
        _enable(module.input_quantizer, settings, scales.input_amax.to(module.weight.device))
    _enable(module.weight_quantizer, _weight_settings(quant), None)
    _weight_amax(module)


def _weight_settings(quant: schema.Quant) -> dict[str, Any]:
    if quant.format is Format.int4_weight_only:
        return {"num_bits": 4, "block_sizes": {-1: quant.block_size}}
    return _WEIGHTS[quant.format]


def _enable(quantizer: Any, settings: dict[str, Any], amax: torch.Tensor | None) -> None:
    from modelopt.torch.quantization.config import QuantizerAttributeConfig

    quantizer.set_from_attribute_config(QuantizerAttributeConfig(**settings, enable=True))
    quantizer.enable_quant()
    if amax is not None:
        quantizer.amax = amax


@torch.no_grad()
def _weight_amax(module: Any) -> None:
    """The weight's ranges by ModelOpt's own calibrator."""
    quantizer = module.weight_quantizer
    quantizer.disable_quant()
    quantizer.enable_calib()
    quantizer(module.weight)
    quantizer.load_calib_amax()
    quantizer.enable_quant()
    quantizer.disable_calib()


def _stored(layer: Layer, module: Any, quant: schema.Quant) -> StoredLayer:
    blocks = quant.format is Format.int4_weight_only
    return StoredLayer(
        layer.name,
        layer.kind.value,
        quant.format,
        quant.block_size if blocks else 0,
        module.in_features if blocks else 0,
    )
