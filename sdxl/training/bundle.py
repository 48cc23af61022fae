"""Pack a run's networks as one diffusers folder.   python -m sdxl.training.bundle RUN FOLDER

The folder loads with `StableDiffusionXLPipeline.from_pretrained(FOLDER)`. Weights are fp16. Beside
the pipeline, `judge/` holds the picture encoder, the detector and reference statistics of rendered
scenes for `quality=fast`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sdxl import architecture
from sdxl.errors import UserError
from sdxl.quality import frechet
from sdxl.scenes import looking, render, world
from sdxl.training import scene_data

REFERENCE_SCENES = 4096
"""Rendered held-out scenes behind the shipped statistics."""
_REFERENCE_SEED = 7


def bundle(run: str, folder: Path, scenes: int = REFERENCE_SCENES) -> dict[str, Any]:
    """Write the folder; returns steps and samples of each stage."""
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    parts = {s: scene_data.stage_folder(run, s) / "model" for s in ("vae", "clip", "judge", "unet")}
    missing = [stage for stage, part in parts.items() if not part.is_dir()]
    if missing:
        raise UserError(
            f"run `{run}` lacks stages",
            " ".join(missing),
            "vae, clip, judge and unet trained",
            f"python train.py -m train={','.join(missing)}",
        )
    half = torch.float16
    vae: Any = scene_data.autoencoder(run)
    vae.to(half).save_pretrained(folder / "vae")
    for name, encoder in zip(
        ("text_encoder", "text_encoder_2"), scene_data.text_encoders(run), strict=True
    ):
        encoder.to(half).save_pretrained(folder / name)
    unet = UNet2DConditionModel.from_pretrained(parts["unet"], torch_dtype=half)
    unet.save_pretrained(folder / "unet")
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(parts["clip"] / name, folder / name, dirs_exist_ok=True)
    EulerDiscreteScheduler(**architecture.SCHEDULER).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(_INDEX, indent=2) + "\n")
    judge = folder / looking.FOLDER
    judge.mkdir(exist_ok=True)
    for file in (parts["clip"] / looking.ENCODER, parts["judge"] / looking.DETECTOR):
        save_file({k: v.to(half) for k, v in load_file(file).items()}, judge / file.name)
    frechet.write(judge / looking.REFERENCE, _reference(folder, scenes))
    return {"bytes": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())}


def _reference(folder: Path, count: int) -> frechet.Statistics:
    """Features of rendered held-out scenes."""
    encoder = looking.picture_encoder(folder)
    moments = frechet.Moments(looking.FEATURES)
    for start in range(0, count, 64):
        block = range(start, min(start + 64, count))
        pictures = render.render(world.held_out_scene(_REFERENCE_SEED, n) for n in block)
        moments.add(looking.features(encoder, pictures))
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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    print(json.dumps(bundle(given.run, given.folder)))


if __name__ == "__main__":
    main()
