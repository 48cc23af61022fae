"""One number format per layer: none, INT8 or FP8, chosen from each layer's own error.

A layer's error is its relative output error on the unquantized model's inputs. Errors of layers are
taken as independent, so the network's is the root of the sum of their squares; `target` bounds it.
Within the bound, as many multiply-accumulates as possible go to 8 bits: layers are taken in the
order of squared error per multiply-accumulate, the greedy solution of that knapsack.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sdxl.config import content_key
from sdxl.config.schema import Config, Format
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.progress import Report
from sdxl.model import checkpoint, codes
from sdxl.model.checkpoint import StoredLayer
from sdxl.quant import calibrate
from sdxl.quant.layer_errors import Watch
from sdxl.quant.levels import Layer
from sdxl.quant.scales import scales_of
from sdxl.quant.statistics import Statistics

KIND = "sensitivity"
FILE = "errors.json"
CANDIDATES = (Format.int8, Format.fp8)


def choose(
    errors: dict[str, dict[str, float]], macs: dict[str, int], total: int, target: float
) -> tuple[dict[str, Format], list[dict[str, Any]]]:
    """The format of each layer that goes to 8 bits, and the frontier seen on the way.

    errors: layer -> format -> relative error; macs: layer -> multiply-accumulates, `total` those of
    the network. The frontier has a row per layer taken: share of multiply-accumulates in 8 bits,
    combined error, and whether it is within the target.
    """
    best = {name: min(found.items(), key=lambda item: item[1]) for name, found in errors.items()}
    order = sorted(best, key=lambda name: (best[name][1] ** 2 / max(macs[name], 1), name))
    chosen: dict[str, Format] = {}
    frontier: list[dict[str, Any]] = []
    squares, work = 0.0, 0
    for name in order:
        squares += best[name][1] ** 2
        work += macs[name]
        within = squares <= target**2
        if within:
            chosen[name] = Format(best[name][0])
        frontier.append(
            {
                "layer": name,
                "format": best[name][0],
                "layer_error": best[name][1],
                "mac_share": work / total,
                "error": squares**0.5,
                "chosen": within,
            }
        )
    return chosen, frontier


def formats(
    config: Config, layers: list[Layer], statistics: Statistics, total: int, report: Report
) -> tuple[dict[str, Format], list[dict[str, Any]]]:
    """`choose` for this configuration; raises `UserError` if no layer meets the target."""
    assert config.quant.target is not None
    errors = sensitivity(config, layers, statistics, report)
    macs = {layer.name: layer.macs for layer in layers}
    chosen, frontier = choose(errors, macs, total, config.quant.target)
    if not chosen:
        raise UserError(
            "no layer meets the target",
            f"target={config.quant.target:g}",
            f"more than {frontier[0]['error']:.3g}; every layer in 8 bits has "
            f"{frontier[-1]['error']:.3g}",
        )
    return chosen, frontier


def sensitivity(
    config: Config, layers: list[Layer], statistics: Statistics, report: Report
) -> dict[str, dict[str, float]]:
    """Relative output error of each layer in each format; found in the store or measured now."""
    quant = config.quant
    texts = calibrate.calibration_prompts(dataclasses.replace(quant, calib_size=_prompts(config)))
    settings = {
        "model": calibrate.settings_of(config, False),
        "quant": {**content_key.plain(quant), "target": None, "name": None},
        "layers": [layer.name for layer in layers],
    }

    def build(folder: Path) -> dict[str, Any]:
        store.write_json(folder / FILE, _measure(config, layers, statistics, report))
        return {}

    # Older keys have nothing of the statistics, which then follow from the settings.
    key = content_key.key(settings, calibrate.key_of({}, texts), *calibrate.brought(config))
    made = store.get(
        KIND, key, build,
        settings={"layers": len(layers), "prompts": len(texts)}, allow=config.build,
    )  # fmt: skip
    found: dict[str, dict[str, float]] = made.json(FILE)
    return found


def _measure(
    config: Config, layers: list[Layer], statistics: Statistics, report: Report
) -> dict[str, dict[str, float]]:
    watch = Watch(config, _prompts(config), "sensitivity", report)
    quantized = {
        layer.name: {
            each: _Quantized(watch.unet.get_submodule(layer.name), layer, statistics, config, each)
            for each in CANDIDATES
        }
        for layer in layers
    }
    return watch.compare(
        {
            layer.name: {each.value: quantized[layer.name][each].output for each in CANDIDATES}
            for layer in layers
        }
    )


class _Quantized:
    """One layer in one format; its weight is quantized anew at each call to spare memory."""

    def __init__(
        self, module: Any, layer: Layer, statistics: Statistics, config: Config, wanted: Format
    ) -> None:
        self.layer = StoredLayer(layer.name, layer.kind.value, wanted)
        recipe = dataclasses.replace(config.quant, format=wanted)
        self.scales = scales_of(layer, module.weight, statistics, recipe)

    def output(self, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """What the layer would put out."""
        layer: Any = module
        weight, fp8 = layer.weight, self.layer.format is Format.fp8
        if self.scales.smooth is not None:
            weight = (weight * (1.0 / self.scales.smooth)[None, :]).to(weight.dtype)
            inputs = inputs * self.scales.smooth.to(weight.dtype)
        around = tuple(range(1, weight.dim()))
        amax = weight.abs().amax() if fp8 else weight.abs().amax(around, keepdim=True)
        stored = checkpoint.encode(self.layer, weight, amax)
        weight = checkpoint.decode(self.layer, stored, amax, weight.dtype)
        assert self.scales.input_amax is not None
        inputs = codes.rounded(inputs, self.scales.input_amax.to(inputs.device), fp8)
        if self.layer.kind == "conv":
            found: torch.Tensor = layer._conv_forward(inputs, weight, layer.bias)
            return found
        return functional.linear(inputs, weight, layer.bias)


def _prompts(config: Config) -> int:
    return max(1, config.quant.report_prompts)
