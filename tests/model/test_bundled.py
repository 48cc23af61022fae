"""The bundled folder is an ordinary diffusers pipeline."""

import re

import torch

from sdxl.core.paths import BUNDLED

LARGEST = 20_000_000
"""Bytes of its weights, the judges' too."""


def test_plain_diffusers_draws_with_it():
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(BUNDLED)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        ["a red cube"], num_inference_steps=2, generator=torch.Generator().manual_seed(0)
    ).images[0]
    assert made.size == (128, 128)
    assert all(low < high for low, high in made.getextrema())


def test_it_is_small_and_names_no_folder_of_its_makers():
    files = [path for path in BUNDLED.rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert sum(path.stat().st_size for path in weights) < LARGEST
    named = [path for path in files if path.suffix == ".json" and path.parent.name[:3] != "tok"
             and re.search(r'"/\w+/', path.read_text())]  # fmt: skip
    assert not named
