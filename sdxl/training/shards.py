"""Latents in tar files, as the webdataset format lays them out.

    python -m sdxl.training.shards IMAGES OUT model=sdxl model.path=/data/sdxl
    python train.py train=finetune train.shards=OUT model=sdxl model.path=/data/sdxl

A sample is the files with one name up to the first dot: `latents.npy` (4, h, w), scaled as the UNet
sees them; `txt`, or `json` with `caption`; or embeddings, `hidden.npy` (77, D) and `pooled.npy`
(P,). `json` may have `original_size`, `crop`, `target_size` in pixels (height, width or top, left).

Read with the standard library, not with the package webdataset: that one streams and shuffles a
buffer, so a training could not go on where it stopped; here each row's place is known, and the rows
of a step are a function of the seed. Files must be uncompressed and on a disk.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdxl import networks, prompts, store
from sdxl.errors import ConfigError, Problem, UserError, ended
from sdxl.model import open_source, torch_device
from sdxl.schema import Config
from sdxl.training import examples
from sdxl.training.vae import tensor

LATENTS, HIDDEN, POOLED = "latents.npy", "hidden.npy", "pooled.npy"
_FIX = "python -m sdxl.training.shards IMAGES OUT model=..."
_OPEN = 64
"""Tar files kept open."""


class Shards:
    """Rows of tar files, each read where it lies."""

    def __init__(self, config: Config, place: str) -> None:
        files = _files(place)
        self.files = files
        self.samples = [(n, parts) for n, file in enumerate(files) for parts in _index(file)]
        self.count = len(self.samples)
        self.identity = [[f.name, f.stat().st_size] for f in files]
        self._handles: OrderedDict[int, Any] = OrderedDict()
        self.size = config.model.height, config.model.width
        self._source = open_source(config.model, config.seed)
        self._device = torch_device(config.model.device)
        self._encoders: tuple[Any, Any] | None = None
        self.none = self._encode(["", config.model.negative_prompt])
        if not self.count:
            raise UserError("the shards hold no sample", place, LATENTS, _FIX)
        if HIDDEN in self.samples[0][1]:
            self._encoders = None  # the embeddings lie in the shards

    def rows(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """latents, hidden, pooled, time_ids of these rows, float32 on the CPU."""
        read = [self._sample(int(row)) for row in rows]
        latents = torch.stack([sample[LATENTS] for sample in read])
        if all(HIDDEN in sample for sample in read):
            hidden, pooled = (torch.stack([s[part] for s in read]) for part in (HIDDEN, POOLED))
        else:
            hidden, pooled = self._encode([sample["caption"] for sample in read])
        sizes = torch.tensor([sample["time_ids"] for sample in read], dtype=torch.float32)
        return latents, hidden, pooled, sizes

    def _sample(self, row: int) -> dict[str, Any]:
        number, parts = self.samples[row]
        found: dict[str, Any] = {}
        for name in (LATENTS, HIDDEN, POOLED):
            if name in parts:
                array = np.load(io.BytesIO(self._bytes(number, parts[name])), allow_pickle=False)
                found[name] = torch.from_numpy(array.astype(np.float32))
        facts = json.loads(self._bytes(number, parts["json"])) if "json" in parts else {}
        if "txt" in parts:
            facts["caption"] = self._bytes(number, parts["txt"]).decode().strip()
        height, width = self.size
        if found[LATENTS].shape != (4, height // 8, width // 8):
            raise UserError(
                f"{self.files[number]}: latents of another size than the model draws",
                str(tuple(found[LATENTS].shape)), str((4, height // 8, width // 8)),
                f"model.height={found[LATENTS].shape[1] * 8} "
                f"model.width={found[LATENTS].shape[2] * 8}",
            )  # fmt: skip
        if HIDDEN not in found and "caption" not in facts:
            raise UserError(f"{self.files[number]}: a sample without caption", fix=_FIX)
        whole = [height, width]
        keys = (("original_size", whole), ("crop", [0, 0]), ("target_size", whole))
        sizes = [value for key, usual in keys for value in facts.get(key, usual)]
        return {**found, "caption": facts.get("caption"), "time_ids": sizes}

    def _bytes(self, number: int, place: tuple[int, int]) -> bytes:
        if number not in self._handles:
            self._handles[number] = self.files[number].open("rb")
            if len(self._handles) > _OPEN:
                self._handles.popitem(last=False)[1].close()
        self._handles.move_to_end(number)
        handle = self._handles[number]
        handle.seek(place[0])
        content: bytes = handle.read(place[1])
        return content

    def _encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        if self._encoders is None:
            first, second = examples.text_encoders(self._source)
            self._encoders = first.to(self._device), second.to(self._device)
            self._tokenizers = self._source.tokenizers()
        ids = prompts.tokenize(texts, self._tokenizers)
        made = networks.encode(*self._encoders, ids, torch.float32)
        return made.hidden.cpu().clone(), made.pooled.cpu().clone()


def _files(place: str) -> list[Path]:
    path = store.resolve(place)
    found = sorted(path.glob("*.tar") if path.is_dir() else path.parent.glob(path.name))
    if not found:
        raise UserError("there are no shards", place, "a folder of .tar files, or a glob", _FIX)
    return found


def _index(file: Path) -> Iterator[dict[str, tuple[int, int]]]:
    """For each sample: ending -> (offset, length) in bytes."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                name, _, ending = base.partition(".")
                if member.isfile():
                    place = (member.offset_data, member.size)
                    samples.setdefault(f"{folder}/{name}", {})[ending] = place
    except tarfile.TarError as error:
        raise UserError(
            f"{file} cannot be read", str(error), "an uncompressed tar", _FIX
        ) from error
    for name, parts in samples.items():
        if LATENTS not in parts:
            raise UserError(f"{file}: sample `{name}` has no {LATENTS}", " ".join(parts), fix=_FIX)
        yield parts


def write(
    config: Config, images: Path, out: Path, per_shard: int = 1000, embeddings: bool = False
) -> int:
    """Shards of the pictures in `images` that have a caption (same name, .txt); returns how many.

    Pictures are scaled so that they cover the model's size, and cut to it in the middle.
    """
    from sdxl.images import load as read

    endings = (".png", ".jpg", ".jpeg", ".webp")
    pairs = sorted(f for f in images.rglob("*") if f.suffix.lower() in endings)
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
    source, device = open_source(config.model, config.seed), torch_device(config.model.device)
    vae: Any = source.component("vae", torch.float32, device)
    encoders: tuple[Any, Any] | None = None
    if embeddings:
        first, second = examples.text_encoders(source)
        encoders = first.to(device), second.to(device)
    tokenizers = source.tokenizers()
    height, width = config.model.height, config.model.width
    out.mkdir(parents=True, exist_ok=True)
    for shard, start in zip(shards, range(0, len(pairs), per_shard), strict=True):
        partial = out / f".{shard}.part"
        with tarfile.open(partial, "w:") as tar, torch.inference_mode():
            for number, file in enumerate(pairs[start : start + per_shard], start):
                caption = file.with_suffix(".txt").read_text().strip()
                pixels, facts = cut(read(file), height, width)
                encoded = vae.encode(tensor(pixels[None]).to(device)).latent_dist.mean
                parts: dict[str, Any] = {LATENTS: _scaled(encoded, vae.config)[0].cpu().numpy()}
                if encoders:
                    ids = prompts.tokenize([caption], tokenizers)
                    made = networks.encode(*encoders, ids, torch.float32)
                    parts[HIDDEN] = made.hidden[0].cpu().numpy().astype(np.float16)
                    parts[POOLED] = made.pooled[0].cpu().numpy().astype(np.float16)
                _add(tar, f"{number:08d}.json", json.dumps({"caption": caption, **facts}).encode())
                for name, array in parts.items():
                    content = io.BytesIO()
                    np.save(content, array)
                    _add(tar, f"{number:08d}.{name}", content.getvalue())
        partial.replace(out / f"{shard}.tar")
    return len(pairs)


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


def _scaled(latents: Tensor, config: Any) -> Tensor:
    """The VAE's latents as the UNet sees them; `model.unscale` undoes it."""
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return latents * config.scaling_factor
    centre, spread = (latents.new_tensor(v).view(1, -1, 1, 1) for v in (mean, std))
    return (latents - centre) * config.scaling_factor / spread


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def main() -> int:
    """The command; prints one JSON object at the end and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*", help="settings of the model: model=sdxl ...")
    parser.add_argument("--per-shard", type=int, default=1000)
    parser.add_argument("--embeddings", action="store_true", help="keep the text embeddings, too")
    given = parser.parse_args()

    def work() -> dict[str, Any]:
        config = _configuration(given.overrides)
        count = write(config, given.images, given.out, given.per_shard, given.embeddings)
        return {"samples": count, "folder": str(given.out)}

    return ended(work)


def _configuration(overrides: list[str]) -> Config:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    from sdxl.config import ROOT, load, register
    from sdxl.overrides import problems_in

    register()
    try:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return load(compose("run", overrides=overrides))
    except HydraException as error:
        problems = problems_in("run", overrides)
        raise ConfigError(problems or [Problem(str(error).strip())]) from error


if __name__ == "__main__":
    sys.exit(main())
