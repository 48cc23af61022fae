"""Synthetic calibration statistics: ranges of values of unit variance for every layer.

With random weights every layer's input has about unit variance, so one range serves; a real
calibration would take the session's time and change no shape and no kernel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

RANGE = 5.0
SOFTMAX = 1.0


def write(config: Any, folder: Path) -> Path:
    """A statistics file for the model of `config`: one prompt, one step."""
    import torch

    from sdxl.model.sources import open_source
    from sdxl.quant import calibrate
    from sdxl.quant.collect import Collector

    attention = config.quant.level >= 4
    file = folder / f"ranges-{config.model.name}{'-attention' if attention else ''}.safetensors"
    if file.is_file():
        return file
    source = open_source(config.model, config.seed)
    unet = source.component("unet", torch.bfloat16, torch.device("meta"))
    settings = {**calibrate.settings_of(config, attention), "synthetic": True}
    collector = Collector(unet, attention)
    table = calibrate.empty(collector, settings)
    row = [SOFTMAX if name.endswith(":softmax") else RANGE for name in table.tensors]
    width = max(columns.stop for columns in table.channels.values())
    table.add(torch.tensor([row]), torch.full((1, width), RANGE))
    table.timesteps = [1.0]
    temporary = file.with_suffix(".writing")
    table.save(temporary)
    temporary.replace(file)
    return file
