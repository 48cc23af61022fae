"""Weights of a diffusers folder: one component at a time, safetensors only, checked before use."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdxl.config import schema
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.paths import BUNDLED, STUDENT
from sdxl.model import config_identity, loading, schedulers, weight_files
from sdxl.model.components import COMPONENTS, Settings
from sdxl.model.fused import Loras
from sdxl.model.locate import HOW, locate
from sdxl.model.readable import listing, read_config, readable

CPU, META = torch.device("cpu"), torch.device("meta")
Configs = dict[str, dict[str, Any]]
"""The config.json of each component."""


class WeightSource:
    """Components of a diffusers folder, of the MLCommons layout, or of a hub repository.

    over: a folder with some parts, which take the place of the model's.
    """

    def __init__(
        self, model: schema.SdxlModel, download: bool = True, over: Path | None = None
    ) -> None:
        self.model, self.over = model, over
        self.folder, self.scheduler_folder = locate(model, download)
        self._loras = Loras(model, lambda name: self._loaded(name, torch.float32, META))

    @cached_property
    def configs(self) -> Configs:
        """Of every component that the folder has."""
        return {name: read_config(name, part, HOW) for name, part in self._there().items()}

    def tokenizers(self) -> tuple[Any, Any]:
        """Both CLIP tokenizers."""
        first, second = (read_tokenizer(self._part(n), n) for n in ("tokenizer", "tokenizer_2"))
        return first, second

    def scheduler(self) -> Any:
        """The model's own scheduler, whatever its class."""
        settings = self.settings("scheduler")
        folder = self.scheduler_folder or self._part("scheduler")
        with readable("the scheduler", folder, "scheduler_config.json", HOW):
            return schedulers.own(settings)

    def settings(self, part: str) -> Settings:
        """What scheduler_config.json or model_index.json says."""
        if part == "scheduler":
            folder = self.scheduler_folder or self._part("scheduler")
            with readable("the scheduler", folder, "scheduler_config.json", HOW):
                return read_config("scheduler", folder, HOW, "scheduler_config.json")
        there = (self.folder / "model_index.json").is_file()
        return read_config("pipeline", self.folder, HOW, "model_index.json") if there else {}

    def component(self, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """One network with its weights; every file is checked to be whole first."""
        self._loras.check(name)
        module = self._loaded(name, dtype, META if device.type == "meta" else CPU)
        return self._loras.merged(name, module).to(device)

    def identity(self) -> dict[str, Any]:
        """Fingerprints of the weight files by name, and of configurations unlike SDXL's own; the
        variant, if there is a choice; LoRA.
        """
        files = sorted(self.folder.rglob("*.safetensors"))
        identity: dict[str, Any] = {
            str(file.relative_to(self.folder)): store.fingerprint(file) for file in files
        }
        if self.over:
            identity["over"] = store.fingerprint(self.over)
        if chosen := self._ambiguous():
            identity["variant"] = chosen
        return identity | config_identity.identity(self.configs) | self._loras.identity()

    def notes(self) -> list[str]:
        """What is not read as asked: plain files where the variant lacks, or no file at all."""
        wanted, found = self.model.variant, self._choices()
        plain = [n for n, choice in found.items() if choice.names and choice.variant != wanted]
        none = [n for n, choice in found.items() if not choice.names]
        notes = [f"no {wanted} file of {', '.join(plain)}: the plain one is read"] if plain else []
        return notes + ([f"{_none_of(wanted)} of {', '.join(none)}"] if none else [])

    def _choices(self) -> dict[str, weight_files.Choice]:
        variant = self.model.variant
        return {n: weight_files.choose(_names(p), variant) for n, p in self._there().items()}

    def _there(self) -> dict[str, Path]:
        """The folders of the components that are there."""
        places = ((name, self._place(name)) for name in COMPONENTS)
        return {name: place for name, place in places if place.is_dir()}

    def _place(self, name: str) -> Path:
        instead = self.over / name if self.over else None
        return instead if instead and instead.is_dir() else self.folder / name

    def _ambiguous(self) -> dict[str, str]:
        """Components read in another variant than the plain files that they have as well."""
        found = {n: choice.variant for n, choice in self._choices().items() if choice.variant}
        plain = {n: weight_files.choose(_names(self._place(n)), None).names for n in found}
        return {name: variant for name, variant in found.items() if plain[name]}

    def _loaded(self, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
        return from_folder(name, self._part(name), dtype, device, self.model.variant)

    def _part(self, name: str) -> Path:
        folder = self._place(name)
        if not folder.is_dir():
            raise UserError(
                f"the model has no `{name}`", listing(self.folder), "a diffusers SDXL folder", HOW
            )
        return folder


def bundled(model: schema.ScenesModel) -> WeightSource:
    """The miniature of SDXL that comes with the package, or its student of four steps.

    Raises `UserError` while its UNet is not trained.
    """
    if not (BUNDLED / "model_index.json").is_file():
        raise UserError(
            "the UNet of model=scenes is not trained yet",
            f"{BUNDLED} without unet/",
            "a trained UNet in the package",
            "python train.py train=unet && python -m sdxl bundle scenes sdxl/assets/scenes",
        )
    settings = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    over = STUDENT if isinstance(model, schema.StudentModel) else None
    return WeightSource(schema.SdxlModel(**settings, path=str(BUNDLED)), over=over)


def from_folder(
    name: str, folder: Path, dtype: torch.dtype, device: torch.device, variant: str | None = None,
    *, called: str | None = None, how: str = HOW,
) -> nn.Module:  # fmt: skip
    """One network of a diffusers folder of its own.

    `called`: its name in messages, where it is not the component's; `how`: the line that helps.
    """
    called = called or name
    if device.type == "meta":
        config = read_config(called, folder, how)
        with readable(f"the shapes of `{called}`", folder, "its config.json", how):
            return loading.shapes(name, config, dtype)
    for file in sorted(folder.glob("*.safetensors")):
        weight_files.check_safetensors(file, how)
    wanted = "config.json and *.safetensors of this variant"
    others = ", ".join(f"model.variant={each}" for each in weight_files.variants(_names(folder)))
    fix = how if called != name else others or "model.variant=null"
    with readable(f"the weights of `{called}`", folder, wanted, fix):
        choice = weight_files.choose(_names(folder), variant)
        if choice.missing:
            raise ValueError(f"shards are missing: {', '.join(choice.missing[:3])}")
        if not choice.names:
            raise ValueError(weight_files.other_kinds(folder) or _none_of(variant))
        files = [folder / each for each in choice.names]
        for file in files:
            weight_files.header(file, how)
        config = read_config(called, folder, how)
        weights = loading.read(files)
        module = loading.fill(name, config, weights, dtype, folder, how, called)
    return module.to(device).eval().requires_grad_(False)


def _none_of(variant: str | None) -> str:
    return f"there is no file of the variant {variant}" if variant else "there is no plain file"


def _names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def read_tokenizer(folder: Path, name: str) -> Any:
    """A CLIP tokenizer from its folder."""
    from transformers import CLIPTokenizer

    with readable(f"the {name}", folder, "the files of a CLIP tokenizer", HOW):
        found = CLIPTokenizer.from_pretrained(folder)
        if len(found) < 256:  # transformers makes an empty one of an empty folder
            raise ValueError("it has no vocabulary")
        return found
