"""Pack a run's networks as one diffusers folder.   python -m sdxl bundle RUN FOLDER

The folder loads with `StableDiffusionXLPipeline.from_pretrained(FOLDER)`. Weights are fp16. Beside
the pipeline, `judge/` holds for `quality=fast` the contrastive pair (its text half as the stage
`clip` has left it), the detector, and what rendered scenes look like to each judge.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sdxl.core import json_file, store
from sdxl.core.command import Parser, ended
from sdxl.core.errors import UserError
from sdxl.model import architecture
from sdxl.model.scenes import render, world
from sdxl.quality import efficientnet, fast_scorer, frechet
from sdxl.quality.scenes import networks
from sdxl.training.data import scene_data

REFERENCE_SCENES = 2048
"""Rendered held-out scenes behind the shipped statistics."""
_REFERENCE_SEED = 7


def student(run: str, folder: Path) -> dict[str, Any]:
    """Write the UNet that `train=distill` has made of the bundled model, and its scheduler.

    Raises `UserError` unless the run has exactly one student.
    """
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    found = sorted((store.root() / "training" / run).glob("distill-*/model"))
    if len(found) != 1:
        raise UserError(
            f"run `{run}` has {len(found)} students", " ".join(p.parent.name for p in found),
            "one", f"python train.py train=distill model=scenes train.run={run}",
        )  # fmt: skip
    unet: Any = UNet2DConditionModel.from_pretrained(found[0])
    unet.to(torch.float16).save_pretrained(folder / "unet")
    made: Any = EulerDiscreteScheduler(**{**architecture.SCHEDULER, "timestep_spacing": "trailing"})
    made.save_pretrained(folder / "scheduler")
    _tidy(folder)
    return {"bytes": _size(folder)}


def bundle(run: str, folder: Path, scenes: int = REFERENCE_SCENES) -> dict[str, Any]:
    """Write what the run has trained; returns the bytes and the stages that are missing.

    The VAE and the judge come first; without the stage `unet` the folder serves `quality=fast`
    alone and is no pipeline yet.
    """
    stages = ("vae", "clip", "judge", "unet")
    parts = {stage: scene_data.stage_folder(run, stage) / "model" for stage in stages}
    missing = [stage for stage, part in parts.items() if not part.is_dir()]
    if set(missing) - {"unet"}:
        raise UserError(
            f"run `{run}` lacks stages",
            " ".join(missing),
            "vae, clip and judge trained",
            f"python train.py -m train={','.join(missing)} train.run={run}",
        )
    if missing and (folder / "unet").is_dir():
        raise UserError(
            f"{folder} holds a pipeline, whose UNet is of another VAE", "no stage unet in this run",
            "a folder without one", f"python train.py train=unet train.run={run}",
        )  # fmt: skip
    half = torch.float16
    vae: Any = scene_data.autoencoder(run)
    vae.to(half).save_pretrained(folder / "vae")
    judge = folder / networks.FOLDER
    scene_data.text_encoders(run)[1].to(half).save_pretrained(judge / networks.TEXT)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(parts["clip"] / name, folder / name, dirs_exist_ok=True)
    for file in (parts["clip"] / networks.ENCODER, parts["judge"] / networks.DETECTOR):
        save_file({k: v.to(half) for k, v in load_file(file).items()}, judge / file.name)
    frechet.write(judge / networks.REFERENCE, _reference(folder, scenes))
    if efficientnet.installed():
        found = fast_scorer.rendered_features(fast_scorer.BUNDLED_SIZE).astype(np.float16)
        np.save(judge / networks.INDEPENDENT, found)
    if not missing:
        _pipeline(parts["unet"], folder)
    _tidy(folder)
    return {"bytes": _size(folder), "missing": missing}


def _tidy(folder: Path) -> None:
    """Configurations without what only the machine that trained could read."""
    for file in folder.rglob("config.json"):
        settings = json_file.read_object(file)
        settings.pop("_name_or_path", None)  # a folder of the machine that trained
        if "dtype" in settings:  # transformers would load halves beside diffusers' floats
            settings["dtype"] = "float32"
        file.write_text(json.dumps(settings, indent=2) + "\n")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _pipeline(trained: Path, folder: Path) -> None:
    """UNet, text encoders, scheduler and the index that makes the folder a pipeline."""
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kinds: dict[str, Any] = {
        "unet": UNet2DConditionModel,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    for name, kind in kinds.items():
        kind.from_pretrained(trained / name).to(torch.float16).save_pretrained(folder / name)
    scheduler: Any = EulerDiscreteScheduler(**architecture.SCHEDULER)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(_INDEX, indent=2) + "\n")


def _reference(folder: Path, count: int) -> frechet.Statistics:
    """Features of rendered held-out scenes."""
    encoder = networks.picture_encoder(folder)
    moments = frechet.Moments(networks.FEATURES)
    for start in range(0, count, 64):
        block = range(start, min(start + 64, count))
        asked = (world.held_out_scene(_REFERENCE_SEED, n) for n in block)
        pictures = render.render(asked, fast_scorer.BUNDLED_SIZE)
        moments.add(networks.features(encoder, pictures))
    found = moments.statistics()
    return frechet.Statistics(found.mu.astype(np.float32), found.sigma.astype(np.float32))


_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "_diffusers_version": "0.35.0",
    "force_zeros_for_empty_prompt": False,
    "add_watermarker": False,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "image_encoder": [None, None],
    "feature_extractor": [None, None],
}


def main(words: Sequence[str] | None = None) -> int:
    """The command; prints one JSON object at the end and returns the exit code."""
    return ended(lambda: _run(words))


def _run(words: Sequence[str] | None) -> dict[str, Any]:
    parser = Parser(prog="python -m sdxl bundle", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="the run's name below <store>/training")
    parser.add_argument("folder", type=Path, help="where the diffusers folder goes")
    parser.add_argument(
        "--student", action="store_true", help="of `train=distill`: its UNet and scheduler only"
    )
    given = parser.parse_args(words)
    work = student if given.student else bundle
    return work(given.run, given.folder)
