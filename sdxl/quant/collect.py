"""Watching one run of the unquantized UNet: largest absolute inputs, per layer and timestep.

Nothing here depends on a level, an alpha or a percentile, which is why one calibration serves all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sdxl.quant.levels import Kind, layers_of

PARTS = ("q", "k", "v", "softmax")
"""Per-tensor values of an attention layer, as `name:part`."""


class Collector:
    """Forward hooks on every quantizable module of a UNet.

    Call `step` before each UNet call and `end_of_prompt` after each prompt. Several UNet calls at
    one timestep (second-order schedulers) share a slot and combine by maximum.
    """

    def __init__(self, unet: Any, attention: bool = False) -> None:
        self.unet = unet
        self.tensors: list[str] = []  # names of per-tensor values, columns of the table
        self.channels: dict[str, slice] = {}  # columns of each Linear's input channels
        self.timesteps: list[float] = []
        self.device = next(unet.parameters()).device
        self._handles: list[Any] = []
        self._unpatch: list[nn.Module] = []
        self._slots: dict[float, tuple[torch.Tensor, torch.Tensor]] = {}
        self._now: tuple[torch.Tensor, torch.Tensor] | None = None
        width = 0
        for layer in layers_of(unet):
            module = unet.get_submodule(layer.name)
            if layer.kind is Kind.conv:
                self._watch_tensor(module, layer.name)
            elif layer.kind is Kind.linear:
                self.channels[layer.name] = slice(width, width + module.in_features)
                width += module.in_features
                self._watch_channels(module, self.channels[layer.name])
            elif attention:
                self._watch_attention(module, layer.name)
        self.width = width
        if attention:
            from diffusers.models.attention_processor import AttnProcessor

            # Fused attention never shows the softmax; the plain processor does.
            unet.set_attn_processor(AttnProcessor())

    def step(self, _number: int, timestep: float) -> None:
        """The next UNet call is at this timestep."""
        if timestep not in self._slots:
            self._slots[timestep] = (
                torch.zeros(len(self.tensors), device=self.device),
                torch.zeros(self.width, device=self.device),
            )
        self._now = self._slots[timestep]

    def end_of_prompt(self) -> tuple[torch.Tensor, torch.Tensor]:
        """amax of the prompt: per tensor (steps, T) and per channel (steps, C), fp32 on the CPU."""
        assert self._slots, "no UNet call since the last prompt"
        timesteps = list(self._slots)
        assert not self.timesteps or self.timesteps == timesteps, "prompts differ in timesteps"
        self.timesteps = timesteps
        tensors = torch.stack([slot[0] for slot in self._slots.values()]).cpu()
        channels = torch.stack([slot[1] for slot in self._slots.values()]).cpu()
        self._slots, self._now = {}, None
        return tensors, channels

    def close(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()
        for module in self._unpatch:
            del module.get_attention_scores

    def _column(self, name: str) -> int:
        self.tensors.append(name)
        return len(self.tensors) - 1

    def _largest(self, column: int, value: torch.Tensor) -> None:
        assert self._now is not None, "a UNet call without `step`"
        # min and max need no copy of the tensor, unlike abs().
        low, high = torch.aminmax(value)
        cell = self._now[0][column]
        torch.maximum(cell, torch.maximum(-low, high).float(), out=cell)

    def _watch_tensor(self, module: nn.Module, name: str) -> None:
        column = self._column(name)
        self._handles.append(
            module.register_forward_pre_hook(lambda _, args: self._largest(column, args[0]))
        )

    def _watch_channels(self, module: nn.Module, columns: slice) -> None:
        def record(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            assert self._now is not None, "a UNet call without `step`"
            rows = args[0].reshape(-1, args[0].shape[-1])
            largest = torch.maximum(rows.amax(0), -rows.amin(0)).float()
            cells = self._now[1][columns]
            torch.maximum(cells, largest, out=cells)

        self._handles.append(module.register_forward_pre_hook(record))

    def _watch_attention(self, module: Any, name: str) -> None:
        for part in "qkv":
            column = self._column(f"{name}:{part}")
            self._handles.append(
                module.get_submodule(f"to_{part}").register_forward_hook(
                    lambda _module, _args, out, column=column: self._largest(column, out)
                )
            )
        column, plain = self._column(f"{name}:softmax"), module.get_attention_scores

        def scores(*args: Any, **kwargs: Any) -> torch.Tensor:
            found = plain(*args, **kwargs)
            self._largest(column, found)
            return found

        module.get_attention_scores = scores
        self._unpatch.append(module)
