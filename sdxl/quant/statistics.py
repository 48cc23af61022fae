"""Calibration statistics as tables and as one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdxl.core import json_file
from sdxl.core.errors import UserError

VERSION = 1


@dataclass
class Statistics:
    """Largest absolute inputs of the unquantized UNet over `calls` prompts.

    per_tensor: (calls, steps, T) for convolutions and attention parts, in the order of `tensors`;
    channel_max, channel_min: (steps, C) over calls, Linear input channels side by side.
    settings: what the statistics belong to (model, steps, guidance, ...; under a shortcut the kind
    of each call). A layer that a call left out has zeros there, which no rule may count.
    """

    per_tensor: torch.Tensor
    channel_max: torch.Tensor
    channel_min: torch.Tensor
    timesteps: list[float]
    tensors: list[str]
    channels: dict[str, slice]
    settings: dict[str, Any]

    @property
    def calls(self) -> int:
        """Prompts seen."""
        return len(self.per_tensor)

    def tensor(self, name: str) -> torch.Tensor:
        """amax (calls, steps) of a convolution's input, or of `attention:q|k|v|softmax`."""
        return self.per_tensor[:, :, self.tensors.index(name)]

    def channel(self, name: str, smallest: bool = False) -> torch.Tensor:
        """amax (steps, in_features) of a Linear's input, largest or smallest over calls."""
        table = self.channel_min if smallest else self.channel_max
        return table[:, self.channels[name]]

    def ran(self, name: str) -> torch.Tensor:
        """(steps,) whether the layer, or part of attention, was computed: not so in a shortcut."""
        if "shortcut" not in self.settings:
            return torch.ones(len(self.timesteps), dtype=torch.bool)
        if name in self.channels:
            return (self.channel(name) > 0).any(-1)
        return (self.tensor(name) > 0).any(0)

    def add(self, tensors: torch.Tensor, channels: torch.Tensor) -> None:
        """Count one more prompt: (steps, T) and (steps, C)."""
        first = not self.calls
        self.per_tensor = tensors[None] if first else torch.cat([self.per_tensor, tensors[None]])
        self.channel_max = channels if first else torch.maximum(self.channel_max, channels)
        self.channel_min = channels.clone() if first else torch.minimum(self.channel_min, channels)

    def check_shapes(self) -> None:
        """Raise `ValueError` or `TypeError` unless tables, names and time steps belong together."""
        steps, columns = len(self.timesteps), self.channel_max.shape[-1]
        fits = (
            self.per_tensor.shape[1:] == (steps, len(self.tensors))
            and self.channel_max.shape == self.channel_min.shape == (steps, columns)
            and all(0 <= c.start < c.stop <= columns for c in self.channels.values())
            and all(isinstance(step, int | float) for step in self.timesteps)
            and all(isinstance(name, str) for name in (*self.tensors, *self.channels))
            and isinstance(self.settings, dict)
        )
        if not fits:
            raise ValueError("its tables are of other layers or time steps than it says")

    def check(self) -> None:
        """Raise `UserError` naming the layers whose values are NaN, infinite or all zero."""
        bad = [
            name
            for column, name in enumerate(self.tensors)
            if not _usable(self.per_tensor[:, :, column])
        ]
        bad += [
            name for name, columns in self.channels.items()
            if not _usable(self.channel_max[:, columns])
        ]  # fmt: skip
        if bad:
            raise UserError(
                f"{len(bad)} layers have no usable calibration statistics",
                ", ".join(bad[:5]),
                "finite values, not all zero",
                "precision=fp32 or precision=bf16, or other calibration prompts",
            )

    def save(self, file: Path) -> None:
        """Write the tables; the same tables give the same bytes."""
        from safetensors.torch import save_file

        layout = {
            "version": VERSION,
            "timesteps": self.timesteps,
            "tensors": self.tensors,
            "channels": [[name, c.start, c.stop] for name, c in self.channels.items()],
            "settings": self.settings,
        }
        tables = {
            "per_tensor": self.per_tensor.contiguous(),
            "channel_max": self.channel_max.contiguous(),
            "channel_min": self.channel_min.contiguous(),
        }
        # One metadata entry: safetensors does not keep the order of several.
        save_file(tables, file, {"layout": json.dumps(layout, sort_keys=True)})


def load(file: Path) -> Statistics:
    """Read a statistics file; raises `UserError` if it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            layout = json_file.parse((opened.metadata() or {})["layout"])
            tables = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        found = Statistics(
            timesteps=layout["timesteps"],
            tensors=layout["tensors"],
            channels={name: slice(start, stop) for name, start, stop in layout["channels"]},
            settings=layout["settings"],
            **tables,
        )
        found.check_shapes()
        return found
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is not a statistics file",
            f"{type(error).__name__}: {error}",
            "statistics.safetensors of an earlier calibration",
            "quant.statistics=null   # calibrates anew",
        ) from error


def _usable(values: torch.Tensor) -> bool:
    return bool(torch.isfinite(values).all() and (values >= 0).all() and values.max() > 0)
