"""A model in one `.safetensors` file, as finetunes are shared: the original key layout of SDXL."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdxl.config import schema
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.paths import BUNDLED
from sdxl.model import (
    architecture,
    clip_vocabulary,
    original,
    schedulers,
    tokenizer,
    weight_files,
)
from sdxl.model.components import COMPONENTS, Settings
from sdxl.model.fused import Loras
from sdxl.model.locate import layout
from sdxl.model.original_file import WeightFile, kind_of
from sdxl.model.readable import read_config
from sdxl.model.weights import CPU, META, Configs, WeightSource

HOW = "model.path=FILE.safetensors   # a whole SDXL model; or model.config=FOLDER, see --help"


class SingleFile:
    """Components of a single file; what it lacks comes from the folder that goes with it."""

    def __init__(self, model: schema.SdxlModel, file: Path) -> None:
        self.model, self.path = model, file
        self.rest = _rest(model)
        facts = file.stat()
        self.file, self.own = _read(file, facts.st_mtime_ns, facts.st_size, model.config)
        self._loras = Loras(model, lambda name: self._loaded(name, torch.float32, META))

    @property
    def configs(self) -> Configs:
        """Of the components that are in the file or in the folder that goes with it."""
        return {**(self.rest.configs if self.rest else {}), **self.own}

    def tokenizers(self) -> tuple[Any, Any]:
        """The tokenizers of the folder that goes with the file, or CLIP's own vocabulary."""
        if self.model.config and self.rest:
            return self.rest.tokenizers()
        if self._bundled:
            return WeightSource(schema.SdxlModel("sdxl", path=str(BUNDLED))).tokenizers()
        return tokenizer.tokenizers_of(clip_vocabulary.words(clip_vocabulary.find()))

    def scheduler(self) -> Any:
        """The folder's own, or Euler with the settings that the file's marks tell of."""
        return schedulers.own(self.scheduler_config)

    def settings(self, part: str) -> Settings:
        """What the scheduler's file would say, and what the folder that goes with it does."""
        if part == "scheduler":
            return self.scheduler_config
        return self.rest.settings(part) if self.rest else {}

    @cached_property
    def scheduler_config(self) -> dict[str, Any]:
        """The folder's own settings, or SDXL's with what the file says of its noise schedule."""
        folder = self.rest.folder if self.model.config and self.rest else BUNDLED
        if folder != BUNDLED or self._bundled:
            name = "scheduler/scheduler_config.json"
            if (folder / name).is_file():
                return read_config("scheduler", folder / "scheduler", HOW, Path(name).name)
        said = weight_files.metadata(self.path).get("modelspec.prediction_type", "")
        found = {"_class_name": "EulerDiscreteScheduler", **architecture.SCHEDULER}
        if "v_pred" in self.file.shapes or said.startswith("v"):
            found["prediction_type"] = "v_prediction"
        if "ztsnr" in self.file.shapes:
            found |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return found

    def component(self, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """One network with its weights, from the file or from the folder that goes with it."""
        self._loras.check(name)
        module = self._loaded(name, dtype, META if device.type == "meta" else CPU)
        return self._loras.merged(name, module).to(device)

    def _loaded(self, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
        if name in self.own:
            return self.file.network(name, self.file.parts[name], self.own[name], dtype, device)
        if self.rest:
            return self.rest.component(name, dtype, device)
        raise UserError(f"{self.path} has no `{name}`", None, "a whole SDXL model", HOW)

    def identity(self) -> dict[str, Any]:
        """Fingerprints of the file and of the components that it lacks; configurations; LoRA."""
        lacking = [n for n in COMPONENTS if n not in self.own and self.rest]
        parts = {n: store.fingerprint(self.rest.folder / n) for n in lacking if self.rest}
        found: dict[str, Any] = {"file": store.fingerprint(self.path), "configs": self.own}
        return found | parts | self._loras.identity()

    def notes(self) -> list[str]:
        """Where what the file lacks comes from."""
        lacking = [name for name in COMPONENTS if name not in self.own]
        if not lacking or not self.rest:
            return []
        return [f"{', '.join(lacking)} from {self.rest.folder}: the file has none"]

    @property
    def _bundled(self) -> bool:
        """Whether the file is a miniature of the bundled model's making."""
        return self.own.get("text_encoder") == _bundled_config("text_encoder")


def _rest(model: schema.SdxlModel) -> WeightSource | None:
    """The folder that completes a file: the given one, else SDXL base in the store."""
    if model.config:
        folder = store.resolve(model.config)
        if not layout(folder):
            raise UserError(
                "`model.config` is no diffusers folder", str(folder),
                "a folder with model_index.json", "model.config=null",
            )  # fmt: skip
    elif not layout(folder := store.root() / "sdxl"):
        return None
    return WeightSource(schema.SdxlModel("sdxl", path=str(folder), variant=model.variant))


@lru_cache(maxsize=4)
def _read(file: Path, _changed: int, _size: int, config: str | None) -> tuple[WeightFile, Configs]:
    """The file's header, and the configuration of each of its parts."""
    found = WeightFile(file, HOW)
    names = [key for key in found.shapes if not original.ignored(key)]
    if kind := kind_of(names):
        raise UserError(f"{file} is {kind}, not an SDXL base model", None, "SDXL", HOW)
    if not found.parts:
        raise UserError(
            f"{file} holds no SDXL model in the original key layout",
            ", ".join(names[:3]),
            "names such as model.diffusion_model.input_blocks.0.0.weight",
            "model.unet=FILE or model.vae=FILE for a part alone",
        )
    if strange := [key for key in names if not original.part_of(key)]:
        raise UserError(
            f"{file} holds {len(strange)} weights that belong to no part of SDXL",
            ", ".join(strange[:5]), "the UNet, the VAE and two text encoders", HOW,
        )  # fmt: skip
    own: Configs = {}
    for name in (name for name in ("unet", *COMPONENTS) if name in found.parts and name not in own):
        if config:
            place = layout(store.resolve(config))
            assert place
            candidates = [read_config(name, place.folder / name, HOW)]
        else:
            candidates = [_bundled_config(name)]
        own[name] = found.config(name, found.parts[name], candidates)
    return found, own


@lru_cache(maxsize=8)
def _bundled_config(name: str) -> dict[str, Any]:
    return read_config(name, BUNDLED / name, HOW)


def write(source: Any, file: Path, dtype: torch.dtype) -> None:
    """A model as a single file in the original layout; of `source`'s four networks."""
    from safetensors.torch import save_file

    whole: dict[str, torch.Tensor] = {}
    for name in COMPONENTS:
        weights = source.component(name, dtype, torch.device("cpu")).state_dict()
        whole |= original.from_diffusers(name, weights, source.configs[name])
    save_file({key: tensor.contiguous() for key, tensor in whole.items()}, file, {"format": "pt"})
