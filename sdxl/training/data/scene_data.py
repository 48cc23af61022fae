"""Scenes for training: pictures, captions and token ids, rendered once and memory-mapped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from sdxl.config import content_key
from sdxl.config.rules_model import MLPERF_NEGATIVE_PROMPT
from sdxl.config.schema.train import TrainConfig
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.model import prompts, tokenizer
from sdxl.model.scenes import captions, render, world
from sdxl.model.scenes.captions import Caption
from sdxl.quality.scenes.encoder import Detector
from sdxl.training.data import encoded

UNCONDITIONAL = ("", MLPERF_NEGATIVE_PROMPT)
"""What unconditional training rows are told, half of them each."""

_BLOCK = 256
IDENTITY = {"look": world.LOOK}
"""What must be the same when a training on scenes goes on."""


def wordings(seed: int, count: int) -> list[Caption]:
    """One caption for each training scene."""
    return captions.training(count, seed)


def pictures(seed: int, count: int, size: int, kind: str = "training") -> NDArray[np.uint8]:
    """uint8 (count, size, size, 3), memory-mapped; rendered at the first use.

    kind: `training` scenes, or `any`, which have the held-out combinations too.
    """
    scene_of = {"training": world.training_scene, "any": world.any_scene}[kind]

    def build(folder: Path) -> dict[str, Any]:
        shape = (count, size, size, 3)
        out = open_memmap(folder / "pictures.npy", mode="w+", dtype=np.uint8, shape=shape)
        for start in range(0, count, _BLOCK):
            block = [scene_of(seed, n) for n in range(start, min(start + _BLOCK, count))]
            out[start : start + len(block)] = render.render(block, size)
        out.flush()
        return {}

    settings: dict[str, Any] = {"seed": seed, "count": count, "size": size, "look": world.LOOK}
    if kind != "training":
        settings["kind"] = kind
    made = store.get("scenes", content_key.key(settings), build, settings=settings)
    found: NDArray[np.uint8] = np.load(made.path / "pictures.npy", mmap_mode="r")
    return found


@cache
def learnt_tokenizers() -> tuple[Any, Any]:
    """A pair learnt from captions and the negative prompt, for the stage `clip`."""
    lines = [caption.text for caption in wordings(0, 2000)]
    return tokenizer.tokenizers_of(tokenizer.learn([*lines, *UNCONDITIONAL]))


def tokenizers(run: str) -> tuple[Any, Any]:
    """The pair that the run's text encoders know, as the stage `clip` has left it."""
    from transformers import CLIPTokenizer

    folder = exported(run, "clip")
    one, other = (
        CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")
    )
    return one, other


def token_ids(
    texts: list[str], pair: tuple[Any, Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids (N, 77) for each of the two encoders."""
    ids = prompts.tokenize(texts, pair)
    return ids.first, ids.second


def stage_folder(run: str, stage: str) -> Path:
    """Where a stage keeps its checkpoint, its log and, below `model`, its networks."""
    return store.root() / "training" / run / stage


def folder_of(config: TrainConfig) -> Path:
    """Where the stage of `config` keeps them."""
    return stage_folder(config.train.run, config.train.name)


def exported(run: str, stage: str) -> Path:
    """The networks that a stage has left; `UserError` if it has left none."""
    folder = stage_folder(run, stage) / "model"
    if not folder.is_dir():
        raise UserError(
            f"the stage `{stage}` of run `{run}` is not trained yet",
            f"no {folder}",
            fix=f"python train.py train={stage} train.run={run}",
        )
    return folder


def autoencoder(run: str) -> Any:
    """The VAE that this run has trained, or None if there is none yet."""
    from diffusers import AutoencoderKL

    folder = stage_folder(run, "vae") / "model"
    if not (folder / "config.json").is_file():
        return None
    return AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)


def on_latents(run: str) -> dict[str, Any]:
    """What must be the same when a training goes on that depends on the run's VAE, too."""
    folder = stage_folder(run, "vae") / "model"
    return {**IDENTITY, "vae": store.fingerprint(folder) if folder.is_dir() else None}


def rebuilt(run: str, first: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures as the run's VAE shows them; none if it is not trained yet."""
    network = autoencoder(run)
    if network is None:
        return np.empty((0, *first.shape[1:]), np.uint8)
    return encoded.rebuilt(network, first)


def text_encoders(run: str) -> tuple[Any, Any]:
    """Both text encoders that this run has trained."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    folder = exported(run, "clip")
    first = CLIPTextModel.from_pretrained(folder / "text_encoder")
    second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2")
    return first.eval(), second.eval()


def detector(run: str) -> Any:
    """The detector that this run has trained, or None if there is none yet."""
    from safetensors.torch import load_model

    file = stage_folder(run, "judge") / "model" / "detector.safetensors"
    if not file.is_file():
        return None
    network = Detector()
    load_model(network, str(file))
    return network.eval()
