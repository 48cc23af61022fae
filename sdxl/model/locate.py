"""Where a model's files lie: a folder in one of two layouts, one file, or the hub's cache."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from sdxl.config import schema
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.model.components import COMPONENTS
from sdxl.model.weight_files import choose

HOW = "python -m sdxl download sdxl   # then model.path=store:sdxl, or copy the folder there"


class AbsentError(UserError):
    """The weights are not on this machine."""


class Place(NamedTuple):
    """The diffusers folder, and the scheduler's if it lies apart (MLCommons)."""

    folder: Path
    scheduler: Path | None = None


def single_file(model: schema.Model) -> Path | None:
    """The file that `model.path` names, if it names one and not a folder."""
    if not isinstance(model, schema.SdxlModel):
        return None
    path = store.resolve(model.path)
    return path if path.is_file() else None


def locate(model: schema.SdxlModel, download: bool) -> Place:
    """The model's folder; from the hub if it is nowhere here and `download` is allowed.

    Raises `AbsentError` if the weights are not to be had.
    """
    local = store.resolve(model.path)
    # What `sdxl download` fetched stands for SDXL base 1.0 only, never for another model.
    places = [local, store.root() / "sdxl"] if model.path == schema.SDXL_BASE else [local]
    for folder in places:
        if found := layout(folder):
            return found
    if not store.on_hub(model.path):
        raise AbsentError(
            "the SDXL weights are not there",
            f"model.path={model.path}",
            "a folder with model_index.json, or checkpoint_pipe/ and checkpoint_scheduler/, "
            "or a .safetensors file",
            HOW,
        )
    return Place(_from_hub(model, download))


def layout(folder: Path) -> Place | None:
    """A folder in diffusers' or the MLCommons layout; None: it is neither."""
    if (folder / "checkpoint_pipe").is_dir():
        scheduler = folder / "checkpoint_scheduler"
        nested = scheduler / "scheduler"
        return Place(folder / "checkpoint_pipe", nested if nested.is_dir() else scheduler)
    return Place(folder) if (folder / "model_index.json").is_file() else None


def hub_patterns(variant: str | None, listed: Iterable[str] = ()) -> list[str]:
    """The files of a diffusers repository that are read, and no other weights.

    `listed` are the repository's: of each component the variant's files, or else the plain ones.
    Without a list the variant's names are patterns.
    """
    folders: dict[str, list[str]] = {}
    for path in listed:
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append(name)
    weights: list[str] = []
    for name in COMPONENTS:
        if folders:
            weights += [f"{name}/{file}" for file in choose(folders.get(name, ()), variant).names]
            continue
        stem = f"{name}/{'model' if name.startswith('text') else 'diffusion_pytorch_model'}"
        end = f".{variant}" if variant else ""
        weights += [f"{stem}{end}.safetensors", f"{stem}{end}-*-of-*.safetensors"]
    return ["*.json", "*.txt", *weights]


def _from_hub(model: schema.SdxlModel, download: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    options: dict[str, Any] = {"revision": model.revision, "etag_timeout": 10}
    try:
        names = hub_patterns(model.variant)
        cached = Path(
            snapshot_download(model.path, local_files_only=True, allow_patterns=names, **options)
        )
    except Exception:  # of several kinds: nothing of it is here
        cached = None
    if cached and (not download or _has_variant(cached, model.variant)):
        return cached
    try:
        if not download:
            raise FileNotFoundError(model.path)
        told = HfApi().model_info(model.path, revision=model.revision, timeout=10)
        listed = [file.rfilename for file in told.siblings or []]
        wanted = hub_patterns(model.variant, listed)
        return Path(snapshot_download(model.path, allow_patterns=wanted, **options))
    except Exception as error:  # many kinds: offline, no such repository, no access
        if cached:  # what is here of it will do, or be named as missing
            return cached
        raise AbsentError(
            f"the SDXL weights are neither here nor to be had from the hub "
            f"({type(error).__name__})",
            f"model.path={model.path}",
            "a local folder (diffusers or MLCommons layout), a .safetensors file, "
            "or a reachable hub",
            f"model.path=FOLDER, or: {HOW}",
        ) from error


def _has_variant(folder: Path, variant: str | None) -> bool:
    """Whether every component that the cache has of a repository is there in this variant."""
    parts = [folder / name for name in COMPONENTS if (folder / name).is_dir()]
    chosen = [choose((file.name for file in part.iterdir()), variant) for part in parts]
    return bool(parts) and all(c.names and c.variant == variant for c in chosen)
