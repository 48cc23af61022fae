"""How much each quantized layer alone changes its output, on the unquantized model's inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sdxl.config import content_key
from sdxl.config.schema import Config, Format
from sdxl.core import store
from sdxl.core.progress import Count, Report, silent
from sdxl.core.store import Artifact
from sdxl.model import codes
from sdxl.model.checkpoint import Checkpoint
from sdxl.quant import calibrate

KIND = "layer_report"
FILE = "errors.json"
WORST = 10
Output = Callable[[nn.Module, torch.Tensor], torch.Tensor]
"""A layer's module and its input -> an alternative output."""


def layer_report(
    config: Config, checkpoint: Artifact, report: Report = silent
) -> list[dict[str, Any]]:
    """One row per quantized convolution and Linear, the largest error first; made once per key.

    `error` is ||quantized output - output|| / ||output|| over the first `report_prompts`
    calibration prompts at the first, the middle and the last step. Each layer gets the unquantized
    model's input, so errors do not add up along the network. Attention products have no row.
    """
    quant = config.quant
    if not quant.report_prompts:
        return []
    texts = _prompts(config)
    key = content_key.key(checkpoint.manifest.key, calibrate.key_of({}, texts), *_inputs(config))

    def build(folder: Path) -> dict[str, Any]:
        rows = measure(config, Checkpoint(checkpoint.path), report)
        store.write_json(folder / FILE, rows)
        return {}

    made = store.get(
        KIND, key, build, settings={"prompts": len(texts)}, parents=[checkpoint.manifest.key],
        allow=config.build,
    )  # fmt: skip
    rows: list[dict[str, Any]] = made.json(FILE)
    return rows


def _inputs(config: Config) -> list[dict[str, Any]]:
    """What else the layers' inputs follow from, where no calibration of ours is in the
    checkpoint's key.
    """
    quant = config.quant
    calibrated = not (quant.format.weight_only or quant.tuned or quant.statistics)
    return [] if calibrated else [calibrate.settings_of(config, False)]


def measure(config: Config, stored: Checkpoint, report: Report = silent) -> list[dict[str, Any]]:
    """The rows of `layer_report`, computed now."""
    watch = Watch(config, config.quant.report_prompts, "layer report", report)

    def output(name: str) -> Output:
        return lambda module, inputs: quantized_output(module, name, stored, inputs)

    layers = {name: layer for name, layer in stored.layers.items() if layer.kind != "attention"}
    errors = watch.compare({name: {"": output(name)} for name in layers})
    rows = [
        {
            "layer": name,
            "kind": layer.kind,
            "format": layer.format.value,
            "error": errors[name][""],
        }
        for name, layer in layers.items()
    ]
    return sorted(rows, key=lambda row: (-float(row["error"]), str(row["layer"])))


class Watch:
    """The unquantized model over the first calibration prompts, each layer beside alternatives."""

    def __init__(self, config: Config, prompts: int, phase: str, report: Report) -> None:
        texts = calibrate.calibration_prompts(dataclasses.replace(config.quant, calib_size=prompts))
        self.calibration = calibrate.Calibration(config, texts)
        self.unet = self.calibration.unet
        self.prompts, self._phase, self._report = prompts, phase, report
        calls = self.calibration.sampler.schedule.calls
        self.steps = {0, calls // 2, calls - 1}

    def compare(self, outputs: dict[str, dict[str, Output]]) -> dict[str, dict[str, float]]:
        """layer -> alternative -> ||alternative - output|| / ||output||."""
        sums = {
            name: {each: torch.zeros(2, dtype=torch.float64) for each in alternatives}
            for name, alternatives in outputs.items()
        }
        now = {"step": -1}

        def hook(name: str) -> Any:
            def record(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
                if now["step"] not in self.steps:
                    return
                for each, alternative in outputs[name].items():
                    difference = alternative(module, args[0]).float() - output.float()
                    pair = [
                        x.float().square().sum(dtype=torch.float64) for x in (difference, output)
                    ]
                    sums[name][each] += torch.stack(pair).cpu()

            return record

        handles = [self.unet.get_submodule(name).register_forward_hook(hook(name)) for name in sums]
        count = Count(self._phase, self.prompts, self._report)
        for index in range(self.prompts):
            self.calibration.sampler.latents(
                [index], on_step=lambda number, _: now.update(step=number)
            )
            count.advance()
        for handle in handles:
            handle.remove()
        return {
            name: {
                each: float((difference / size.clamp(min=1e-30)).sqrt())
                for each, (difference, size) in found.items()
            }
            for name, found in sums.items()
        }


def quantized_output(
    module: Any, name: str, checkpoint: Checkpoint, inputs: torch.Tensor
) -> torch.Tensor:
    """What the layer would have put out with its stored weight and input range."""
    layer = checkpoint.layers[name]
    weight = checkpoint.weight(name, module.weight.dtype).to(inputs.device)
    if not layer.weight_only:
        factors = checkpoint.get(name, "pre_quant_scale")
        if factors is not None:
            inputs = inputs * factors.to(inputs.device)
        amax = checkpoint.tensor(f"{name}.input_amax").to(inputs.device)
        inputs = codes.rounded(inputs, amax, layer.format is Format.fp8)
    if layer.kind == "conv":
        return module._conv_forward(inputs, weight, module.bias)
    return functional.linear(inputs, weight, module.bias)


def _prompts(config: Config) -> Any:
    count = config.quant.report_prompts
    return calibrate.calibration_prompts(dataclasses.replace(config.quant, calib_size=count))
