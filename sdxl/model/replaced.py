"""A model with another UNet or VAE: `model.unet=`, `model.vae=`, a folder or a file."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import nn

from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.model.components import notes_of
from sdxl.model.original_file import WeightFile
from sdxl.model.readable import listing, read_config
from sdxl.model.weights import Configs, from_folder

_KIND = {"unet": "UNet", "vae": "VAE"}


class Replaced:
    """A source one of whose networks comes from elsewhere.

    A folder has config.json and weights, as diffusers or `train=finetune` leave them, or is a whole
    model's. A file holds one network in diffusers' or the original layout; it has the shape of the
    model's own, or SDXL's conventions.
    """

    def __init__(self, source: Any, name: str, where: str) -> None:
        self.source, self.name, self.place = source, name, store.resolve(where)
        self.tokenizers, self.scheduler = source.tokenizers, source.scheduler
        self.settings = source.settings
        if self.place.is_file():
            self._file = WeightFile(self.place, self._how)
            return
        if not (self.place / "config.json").is_file():
            self.place = self.place / name
        if not (self.place / "config.json").is_file():
            raise UserError(
                f"`model.{name}` holds no {_KIND[name]}",
                listing(folder) if (folder := store.resolve(where)).is_dir() else str(folder),
                "config.json and *.safetensors, or one .safetensors file",
                self._how,
            )

    @property
    def _how(self) -> str:
        made = ", as `train=finetune` leaves it" if self.name == "unet" else ", or FILE.safetensors"
        return f"model.{self.name}=FOLDER   # diffusers'{made}; null: the model's own"

    @cached_property
    def configs(self) -> Configs:
        """The source's, with that of the other network."""
        theirs: Configs = self.source.configs
        if self.place.is_dir():
            config = read_config(f"model.{self.name}", self.place, self._how)
        else:
            own = [theirs[self.name]] if self.name in theirs else []
            config = self._file.config(self.name, self._file.alone(self.name), own)
        return {**theirs, self.name: config}

    def component(self, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """One network in evaluation mode."""
        if name != self.name:
            part: nn.Module = self.source.component(name, dtype, device)
            return part
        called = f"model.{name}"
        if self.place.is_dir():
            return from_folder(name, self.place, dtype, device, called=called, how=self._how)
        keys = self._file.alone(name)
        return self._file.network(name, keys, self.configs[name], dtype, device, called)

    def identity(self) -> dict[str, Any]:
        """The source's own, with the other network."""
        return {**self.source.identity(), f"other_{self.name}": store.fingerprint(self.place)}

    def notes(self) -> list[str]:
        """The source's, and where the other network comes from."""
        return [*notes_of(self.source), f"{self.name} from {self.place}"]
