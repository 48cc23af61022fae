"""Real SDXL weights: a local folder first, then the hub; safetensors only, checked before use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdxl.config import loras, schema
from sdxl.core import store
from sdxl.core.errors import SdxlError, UserError
from sdxl.core.paths import BUNDLED
from sdxl.model import lora, lora_config
from sdxl.model.components import COMPONENTS
from sdxl.model.weight_files import check_safetensors

_HOW = "python -m sdxl download sdxl   # then model.path=store:sdxl, or copy the folder there"
_OTHER = "model.unet=FOLDER   # as `train=finetune` leaves it; null: the model's own"


class WeightSource:
    """Components of a diffusers folder, of the MLCommons layout, or of a hub repository."""

    def __init__(self, model: schema.SdxlModel, download: bool = True) -> None:
        self.model = model
        self.folder, self.scheduler_folder = _locate(model, download)

    def tokenizers(self) -> tuple[Any, Any]:
        """Both CLIP tokenizers."""
        from transformers import CLIPTokenizer

        found = []
        for name in ("tokenizer", "tokenizer_2"):
            folder = self._part(name)
            with _readable(f"the {name}", folder, "the files of a CLIP tokenizer", _HOW):
                found.append(CLIPTokenizer.from_pretrained(folder))
                if len(found[-1]) < 256:  # transformers makes an empty one of an empty folder
                    raise ValueError("it has no vocabulary")
        return found[0], found[1]

    def scheduler(self) -> Any:
        """Euler with the settings of the model's own scheduler."""
        from diffusers import EulerDiscreteScheduler

        folder = self.scheduler_folder or self._part("scheduler")
        with _readable("the scheduler", folder, "scheduler_config.json", _HOW):
            return EulerDiscreteScheduler.from_pretrained(folder)

    def component(self, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """One network with its weights; every file is checked to be whole first."""
        import diffusers
        import transformers

        folder = self._part(name)
        fits = self._loras.get(name, [])  # refused before anything is loaded, in a plan too
        if device.type == "meta":
            return nn.Module.to(self._shapes(name, folder), dtype).eval()
        options: dict[str, Any] = {"variant": self.model.variant}
        if name == "unet":
            load, options["torch_dtype"] = diffusers.UNet2DConditionModel.from_pretrained, dtype
        elif name == "vae":
            load, options["torch_dtype"] = diffusers.AutoencoderKL.from_pretrained, dtype
        else:
            kind = "CLIPTextModel" if name == "text_encoder" else "CLIPTextModelWithProjection"
            load, options["dtype"] = getattr(transformers, kind).from_pretrained, dtype
        fix = "model.variant=fp16 or model.variant=null"
        module = _loaded(name, folder, load, options, fix, _HOW)
        lora.merge(module, fits)
        return module.to(device).eval().requires_grad_(False)

    def identity(self) -> dict[str, Any]:
        """Names and fingerprints of the weight files; the LoRA fused into them."""
        files = sorted(self.folder.rglob("*.safetensors"))
        identity: dict[str, Any] = {
            str(file.relative_to(self.folder)): store.fingerprint(file) for file in files
        }
        fused = [[*lora_config.identity(each.path), each.scale] for each in loras.of(self.model)]
        if fused:
            identity["lora"] = fused if len(fused) > 1 else fused[0]
        return identity

    @cached_property
    def _loras(self) -> dict[str, list[lora.Fitting]]:
        """What each LoRA changes in each component, known to fit."""
        asked = loras.of(self.model)
        if not asked:
            return {}
        shapes_of = cache(lambda name: self._shapes(name, self._part(name)))
        return lora.fitting(asked, shapes_of("unet").config, shapes_of)

    def _part(self, name: str) -> Path:
        folder = self.folder / name
        if not folder.is_dir():
            raise UserError(
                f"the model has no `{name}`",
                f"{self.folder} with {' '.join(sorted(f.name for f in self.folder.iterdir()))}",
                "a diffusers SDXL folder",
                _HOW,
            )
        return folder

    def _shapes(self, name: str, folder: Path) -> nn.Module:
        """The network without weights, for counting."""
        import diffusers
        import transformers

        readable = _readable(f"the shapes of `{name}`", folder, "its config.json", _HOW)
        with readable, torch.device("meta"):
            if name in ("unet", "vae"):
                kind = "UNet2DConditionModel" if name == "unet" else "AutoencoderKL"
                network = getattr(diffusers, kind)
                return network.from_config(network.load_config(folder))
            kind = "CLIPTextModel" if name == "text_encoder" else "CLIPTextModelWithProjection"
            config = transformers.CLIPTextConfig.from_pretrained(folder)
            return getattr(transformers, kind)(config)


def bundled(model: schema.ScenesModel) -> WeightSource:
    """The miniature of SDXL that comes with the package.

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
    return WeightSource(schema.SdxlModel(**settings, path=str(BUNDLED)))


class OtherUnet:
    """A source whose UNet comes from a folder of its own, as `train=finetune` leaves it."""

    def __init__(self, source: Any, folder: str) -> None:
        self.source, self.folder = source, store.resolve(folder)
        if not (self.folder / "config.json").is_file():
            raise UserError(
                "`model.unet` holds no UNet", str(self.folder), "config.json and *.safetensors",
                _OTHER,
            )  # fmt: skip
        self.tokenizers, self.scheduler = source.tokenizers, source.scheduler

    def component(self, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """One network in evaluation mode."""
        from diffusers import UNet2DConditionModel

        if name != "unet":
            part: nn.Module = self.source.component(name, dtype, device)
            return part
        if device.type == "meta":
            with _readable("the shapes of `model.unet`", self.folder, "its config.json", _OTHER):
                network = UNet2DConditionModel.load_config(self.folder)
                with torch.device("meta"):
                    shapes = UNet2DConditionModel.from_config(network)
            return nn.Module.to(shapes, dtype).eval().requires_grad_(False)
        load, options = UNet2DConditionModel.from_pretrained, {"torch_dtype": dtype}
        module = _loaded("model.unet", self.folder, load, options, _OTHER, _OTHER)
        return module.to(device).eval().requires_grad_(False)

    def identity(self) -> dict[str, Any]:
        """The source's own, with the other UNet."""
        return {**self.source.identity(), "other_unet": store.fingerprint(self.folder)}


def _loaded(
    name: str, folder: Path, load: Callable[..., Any], options: dict[str, Any], fix: str, how: str
) -> Any:
    """A network by its library's `load`, whole: no file truncated, no weight missing or unfit.

    `fix` is the line for weights of another kind, `how` the one that brings whole ones.
    """
    for file in sorted(folder.glob("*.safetensors")):
        check_safetensors(file, how)
    wanted = "config.json and *.safetensors of this variant"
    with _readable(f"the weights of `{name}`", folder, wanted, fix):
        module, info = load(folder, use_safetensors=True, output_loading_info=True, **options)
    if missing := sorted(info.get("missing_keys") or []):
        raise UserError(
            f"{folder} lacks {len(missing)} weights of `{name}`",
            ", ".join(missing[:5]),
            "all of them: diffusers would fill the rest with random numbers",
            how,
        )
    return module


@contextmanager
def _readable(what: str, folder: Path, expected: str, fix: str) -> Iterator[None]:
    """Whatever a library says of a bad folder, as a `UserError` that names the folder."""
    try:
        yield
    except SdxlError:
        raise
    except Exception as error:  # of every kind: files missing, no JSON, another shape, ...
        found = " ".join(sorted(file.name for file in folder.iterdir()))
        said = str(error).strip() or type(error).__name__
        raise UserError(
            f"{what} cannot be loaded: {said.splitlines()[0]}",
            f"{folder} with {found or 'no files'}",
            expected,
            fix,
        ) from error


def _locate(model: schema.SdxlModel, download: bool) -> tuple[Path, Path | None]:
    """The diffusers folder, and the scheduler's if it lies apart (MLCommons)."""
    local = store.resolve(model.path)
    # What `sdxl download` fetched stands for SDXL base 1.0 only, never for another model.
    places = [local, store.root() / "sdxl"] if model.path == schema.SDXL_BASE else [local]
    for folder in places:
        if (folder / "checkpoint_pipe").is_dir():
            scheduler = folder / "checkpoint_scheduler"
            nested = scheduler / "scheduler"
            return folder / "checkpoint_pipe", nested if nested.is_dir() else scheduler
        if (folder / "model_index.json").is_file():
            return folder, None
    looks_local = model.path.startswith(("/", ".", "~", "store:")) or local.exists()
    if looks_local or model.path.count("/") != 1:
        raise UserError(
            "the SDXL weights are not there",
            f"model.path={model.path}",
            "a folder with model_index.json, or checkpoint_pipe/ and checkpoint_scheduler/",
            _HOW,
        )
    return _from_hub(model, download), None


def _from_hub(model: schema.SdxlModel, download: bool) -> Path:
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {
        "revision": model.revision,
        "allow_patterns": hub_patterns(model.variant),
        "etag_timeout": 10,
    }
    try:
        try:
            return Path(snapshot_download(model.path, local_files_only=True, **options))
        except FileNotFoundError:
            if not download:
                raise
            return Path(snapshot_download(model.path, **options))
    except Exception as error:  # many kinds: offline, no such repository, no access
        raise UserError(
            f"the SDXL weights are neither here nor to be had from the hub "
            f"({type(error).__name__})",
            f"model.path={model.path}",
            "a local folder (diffusers or MLCommons layout), or a reachable hub",
            f"model.path=FOLDER, or: {_HOW}",
        ) from error


def hub_patterns(variant: str | None) -> list[str]:
    """The files of a diffusers repository that one variant needs, and no other weights."""
    end = f".{variant}" if variant else ""
    stems = [
        f"{name}/{'model' if name.startswith('text') else 'diffusion_pytorch_model'}{end}"
        for name in COMPONENTS
    ]
    whole = [f"{stem}.safetensors" for stem in stems]
    return ["*.json", "*.txt", *whole, *(f"{stem}-*-of-*.safetensors" for stem in stems)]
