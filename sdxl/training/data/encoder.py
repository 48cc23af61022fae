"""Pictures and captions as the files of samples, a batch at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdxl.config.schema import Config
from sdxl.core.errors import UserError
from sdxl.model import components, networks, pictures, prompts
from sdxl.model.components import torch_device
from sdxl.model.sources import open_source
from sdxl.quality.scenes.networks import to_tensor
from sdxl.training.data import embed, tars
from sdxl.training.data.sharded import HIDDEN, POOLED
from sdxl.training.data.tars import LATENTS, MOMENTS

BATCH_PIXELS = 4 << 20
"""Pixels of the pictures that are encoded at once: four of 1024 x 1024."""


@dataclass(frozen=True)
class Pair:
    """A picture and its caption: two files, or two parts of a tar."""

    name: str
    picture: Path
    caption: Path
    within: tuple[tars.Place, tars.Place] | None = None  # in the tar that both paths then name

    def read(self) -> tuple[np.ndarray, str]:
        """uint8 (H, W, 3), and the caption; raises `UserError` if one of them cannot be read."""
        try:
            if not self.within:
                return pictures.load(self.picture), self.caption.read_text("utf-8").strip()
            picture, caption = (_within(self.picture, place) for place in self.within)
            named = self.picture / self.name
            return pictures.load(named, picture), caption.decode().strip()
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.picture if not self.within else self.picture / self.name} cannot be read",
                str(error),
                "a picture, and its caption in UTF-8 beside it",
            ) from error


def _within(file: Path, place: tars.Place) -> bytes:
    with file.open("rb") as stream:
        stream.seek(place[0])
        return stream.read(place[1])


class Encoder:
    """Latents or moments of pictures and, if asked, embeddings of captions."""

    def __init__(self, config: Config, embeddings: bool, moments: bool) -> None:
        source, self.device = (
            open_source(config.model, config.seed),
            torch_device(config.model.device),
        )
        self.size, self.moments = (config.model.height, config.model.width), moments
        self.vae: Any = source.component("vae", torch.float32, self.device)
        self.encoders = embed.text_encoders(source, self.device) if embeddings else None
        self.tokenizers = source.tokenizers()
        self.batch = max(1, BATCH_PIXELS // (self.size[0] * self.size[1]))

    def samples(self, pairs: Sequence[Pair]) -> Iterator[dict[str, bytes]]:
        """Ending -> content, for each of the pairs."""
        for start in range(0, len(pairs), self.batch):
            yield from self._encoded([pair.read() for pair in pairs[start : start + self.batch]])

    @torch.inference_mode()
    def _encoded(self, read: Sequence[tuple[np.ndarray, str]]) -> Iterator[dict[str, bytes]]:
        made = [cut(picture, *self.size) for picture, _ in read]
        captions = [caption for _, caption in read]
        pixels = to_tensor(np.stack([picture for picture, _ in made])).to(self.device)
        if self.moments:
            whole = components.moments(self.vae, pixels)[:, None]
            arrays = {MOMENTS: whole.float().cpu().numpy()}  # (1, 8, h, w) each, as published
        else:
            arrays = {LATENTS: components.encode(self.vae, pixels).cpu().numpy()}
        if self.encoders:
            ids = prompts.tokenize(captions, self.tokenizers)
            told = networks.encode(*self.encoders, ids, torch.float32)
            arrays[HIDDEN] = told.hidden.cpu().numpy().astype(np.float16)
            arrays[POOLED] = told.pooled.cpu().numpy().astype(np.float16)
        for number, (caption, (_, facts)) in enumerate(zip(captions, made, strict=True)):
            described = json.dumps({"caption": caption, **facts}).encode()
            text = {"txt": caption.encode()} if self.moments else {}
            parts = {name: npy(array[number]) for name, array in arrays.items()}
            yield {"json": described, **text, **parts}


def npy(array: np.ndarray) -> bytes:
    """An array as a file of numpy's."""
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def cut(picture: np.ndarray, height: int, width: int) -> tuple[np.ndarray, dict[str, Any]]:
    """uint8 (H, W, 3) -> (height, width, 3) from the middle, and SDXL's size conditioning."""
    from PIL import Image

    tall, wide = picture.shape[:2]
    factor = max(height / tall, width / wide)
    size = max(width, round(wide * factor)), max(height, round(tall * factor))
    scaled = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    facts = {"original_size": [tall, wide], "crop": [top, left], "target_size": [height, width]}
    return scaled[top : top + height, left : left + width], facts
