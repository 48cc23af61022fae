"""A model's LoRAs, fused into its networks as these are loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

from torch import nn

from sdxl.config import loras, schema
from sdxl.model import lora, lora_config


class Loras:
    """What `model.lora` asks for; `shapes_of` gives a component on the meta device."""

    def __init__(self, model: schema.SdxlModel, shapes_of: Callable[[str], nn.Module]) -> None:
        self.asked, self._shapes_of = loras.of(model), shapes_of

    def check(self, name: str) -> None:
        """Raise `UserError` if a LoRA does not fit; before anything is loaded, in a plan too."""
        self._fits.get(name)

    def merged(self, name: str, module: nn.Module) -> nn.Module:
        """The network with what the LoRAs change in it; shapes alone stay as they are."""
        fits = self._fits.get(name, [])
        if fits and not next(module.parameters()).is_meta:
            lora.merge(module, fits)
        return module.eval().requires_grad_(False)

    def identity(self) -> dict[str, Any]:
        """Files and scales, for content keys."""
        fused = [[*lora_config.identity(each.path), each.scale] for each in self.asked]
        return {"lora": fused if len(fused) > 1 else fused[0]} if fused else {}

    @cached_property
    def _fits(self) -> dict[str, list[lora.Fitting]]:
        """What each LoRA changes in each component, known to fit."""
        if not self.asked:
            return {}
        shapes_of: Any = cache(self._shapes_of)
        return lora.fitting(self.asked, shapes_of("unet").config, shapes_of)
