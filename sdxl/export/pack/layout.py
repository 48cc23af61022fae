"""What diffusers' layout has beside the networks: index, scheduler, tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers

from sdxl.config.schema import Config
from sdxl.core import json_file, store
from sdxl.model import loading, schedulers
from sdxl.model.components import Source

CLASS = "StableDiffusionXLPipeline"


def write(config: Config, source: Source, folder: Path) -> None:
    """The index, the scheduler that draws, and both tokenizers."""
    scheduler = schedulers.schedule_of(config.scheduler, config.model.steps, source).scheduler
    scheduler.save_pretrained(folder / "scheduler")
    tokenizers(source, folder)
    pipeline = source.settings("pipeline")
    store.write_json(
        folder / "model_index.json",
        {
            "_class_name": CLASS,
            "_diffusers_version": diffusers.__version__,
            "feature_extractor": [None, None],
            "force_zeros_for_empty_prompt": pipeline.get("force_zeros_for_empty_prompt", True),
            "image_encoder": [None, None],
            "scheduler": ["diffusers", type(scheduler).__name__],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", loading.vae_class(source.configs["vae"])],
        },
    )


def tokenizers(source: Source, folder: Path) -> None:
    """Those of both text encoders."""
    for name, each in zip(("tokenizer", "tokenizer_2"), source.tokenizers(), strict=True):
        _tokenizer(each, folder / name)


def _tokenizer(tokenizer: Any, folder: Path) -> None:
    """In today's one file, and in the two that transformers before 5 reads."""
    tokenizer.save_pretrained(folder)
    model = json_file.read_object(folder / "tokenizer.json")["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n")
