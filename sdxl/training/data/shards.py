"""Latents in tar files, as the webdataset format lays them out.

    python -m sdxl shards IMAGES OUT model=sdxl model.path=/data/sdxl
    python train.py train=finetune train.shards=OUT model=sdxl model.path=/data/sdxl

A sample is the files with one name up to the first dot: `latents.npy` (4, h, w), scaled as the UNet
sees them; `txt`, or `json` with `caption`; or embeddings, `hidden.npy` (77, D) and `pooled.npy`
(P,). `json` may have `original_size`, `crop`, `target_size` in pixels (height, width or top, left).
`sdxl.training.data.sharded` reads them.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdxl.config.schema import Config
from sdxl.core import store
from sdxl.core.command import Parser, ended
from sdxl.core.errors import ConfigError, Problem, UserError
from sdxl.core.paths import CONF
from sdxl.model import networks, pictures, prompts
from sdxl.model.components import encode, torch_device
from sdxl.model.sources import open_source
from sdxl.quality.scenes.networks import to_tensor
from sdxl.training.data import embed
from sdxl.training.data.sharded import HIDDEN, POOLED
from sdxl.training.data.tars import LATENTS


def write(
    config: Config, images: Path, out: Path, per_shard: int = 1000, embeddings: bool = False
) -> int:
    """Shards of the pictures in `images` that have a caption (same name, .txt); returns how many.

    Pictures are scaled so that they cover the model's size, and cut to it in the middle.
    """
    pairs = pictures.find(images)
    pairs = [file for file in pairs if file.with_suffix(".txt").is_file()]
    if not pairs:
        raise UserError("there are no pictures with captions", str(images), "name.png and name.txt")
    if per_shard < 1:
        raise UserError("a shard holds samples", f"--per-shard {per_shard}", "at least 1")
    shards = [f"{number:06d}" for number in range(-(-len(pairs) // per_shard))]
    if others := sorted({file.name for file in out.glob("*.tar")} - {f"{s}.tar" for s in shards}):
        raise UserError(
            f"{out} holds other shards, which would be trained on, too",
            " ".join(others[:5]),
            "a new folder, or these shards removed",
        )
    encode = _Encoder(config, embeddings)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for shard, start in zip(shards, range(0, len(pairs), per_shard), strict=True):
            partial = out / f".{shard}.part"
            try:
                with tarfile.open(partial, "w:") as tar, torch.inference_mode():
                    for number, file in enumerate(pairs[start : start + per_shard], start):
                        for name, content in encode(file).items():
                            _add(tar, f"{number:08d}.{name}", content)
                partial.replace(out / f"{shard}.tar")
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise store.disk_error(error, out, "another OUT") from error
    return len(pairs)


class _Encoder:
    """A picture and its caption as the files of a sample."""

    def __init__(self, config: Config, embeddings: bool) -> None:
        source, self.device = (
            open_source(config.model, config.seed),
            torch_device(config.model.device),
        )
        self.size = config.model.height, config.model.width
        self.vae: Any = source.component("vae", torch.float32, self.device)
        self.encoders = embed.text_encoders(source, self.device) if embeddings else None
        self.tokenizers = source.tokenizers()

    def __call__(self, file: Path) -> dict[str, bytes]:
        """Ending -> content; raises `UserError` if the picture or its caption cannot be read."""
        try:
            caption = file.with_suffix(".txt").read_text("utf-8").strip()
            pixels, facts = cut(pictures.load(file), *self.size)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{file} cannot be read",
                str(error),
                "a picture, and its caption in UTF-8 beside it",
            ) from error
        latents = encode(self.vae, to_tensor(pixels[None]).to(self.device))
        arrays = {LATENTS: latents[0].cpu().numpy()}
        if self.encoders:
            ids = prompts.tokenize([caption], self.tokenizers)
            made = networks.encode(*self.encoders, ids, torch.float32)
            arrays[HIDDEN] = made.hidden[0].cpu().numpy().astype(np.float16)
            arrays[POOLED] = made.pooled[0].cpu().numpy().astype(np.float16)
        described = json.dumps({"caption": caption, **facts}).encode()
        return {"json": described, **{name: _npy(array) for name, array in arrays.items()}}


def _npy(array: np.ndarray) -> bytes:
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


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def main(words: Sequence[str] | None = None) -> int:
    """The command; prints one JSON object at the end and returns the exit code."""
    return ended(lambda: _run(words))


def _run(words: Sequence[str] | None) -> dict[str, Any]:
    parser = Parser(prog="python -m sdxl shards", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, help="pictures with their captions")
    parser.add_argument("out", type=Path, help="folder of the tar files")
    parser.add_argument("overrides", nargs="*", help="settings of the model: model=sdxl ...")
    parser.add_argument("--per-shard", type=int, default=1000, help="samples of a tar file")
    parser.add_argument("--embeddings", action="store_true", help="keep the text embeddings, too")
    given = parser.parse_args(words)
    config = _configuration(given.overrides)
    count = write(config, given.images, given.out, given.per_shard, given.embeddings)
    uncaptioned = len(pictures.find(given.images)) - count
    return {"samples": count, "without_caption": uncaptioned, "folder": str(given.out)}


def _configuration(overrides: list[str]) -> Config:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    from sdxl.config.explain import problems_in
    from sdxl.config.load import load, register

    register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return load(compose("run", overrides=overrides), overrides)
    except HydraException as error:
        problems = problems_in("run", overrides)
        raise ConfigError(problems or [Problem(str(error).strip())]) from error
