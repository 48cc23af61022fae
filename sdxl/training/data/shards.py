"""Latents in tar files, as the webdataset format lays them out.

    python -m sdxl shards IMAGES OUT model=sdxl model.path=/data/sdxl
    python train.py train=finetune train.shards=OUT model=sdxl model.path=/data/sdxl

A sample is the files with one name up to the first dot: `latents.npy` (4, h, w), scaled as the UNet
sees them, or `npy` (1, 8, h, w), the VAE's mean and log-variance, unscaled, of which latents are
drawn anew at every step; `txt`, or `json` with `caption`; or embeddings, `hidden.npy` (77, D) and
`pooled.npy` (P,). `json` may have `original_size`, `crop`, `target_size` in pixels (height, width
or top, left). `sdxl.training.data.sharded` reads them. Beside each tar lies its index.
"""

from __future__ import annotations

import functools
import io
import os
import shlex
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdxl.config import content_key
from sdxl.config.schema import Config
from sdxl.core import locks, store
from sdxl.core.command import Parser, ended
from sdxl.core.errors import ConfigError, Problem, SdxlError, UserError
from sdxl.core.paths import CONF
from sdxl.model import pictures
from sdxl.model.sources import open_source
from sdxl.training import machine
from sdxl.training.data import tar_index, tars
from sdxl.training.data.encoder import Encoder, Pair


@dataclass(frozen=True)
class Asked:
    """What is written into a tar beside what the pictures are encoded with."""

    per_shard: int = 1000
    embeddings: bool = False
    moments: bool = False


def write(config: Config, images: Path, out: Path, asked: Asked | None = None) -> dict[str, int]:
    """Shards of the pictures in `images` that have a caption; counts of what became of them.

    images: a folder of pictures with captions (same name, .txt), or of tars with both; of those,
    each becomes a tar of its name. Pictures are scaled so that they cover the model's size, and cut
    to it in the middle. A tar that is there already, of the same pictures and settings, is kept. Of
    several processes each writes its share; an equal command beside it waits for each tar and keeps
    it, and one of other settings that overwrites what this one wrote is an error.
    """
    asked = asked or Asked()
    if asked.per_shard < 1:
        raise UserError("a shard holds samples", f"--per-shard {asked.per_shard}", "at least 1")
    shards, uncaptioned = _shards(images, asked.per_shard)
    pairs = sum(map(len, shards.values()))
    if not pairs:
        raise UserError("there are no pictures with captions", str(images), "name.png and name.txt")
    if others := sorted({file.name for file in out.glob("*.tar")} - {f"{s}.tar" for s in shards}):
        raise UserError(
            f"{out} holds other shards, which would be trained on, too",
            " ".join(others[:5]),
            "a new folder, or these shards removed",
        )
    weights = open_source(config.model, config.seed).identity()
    size, encoder = [config.model.height, config.model.width], None
    rank, world = (
        int(os.environ.get(name, usual)) for name, usual in (("RANK", "0"), ("WORLD_SIZE", "1"))
    )
    kept, keys = 0, {}
    fingerprint = functools.cache(store.fingerprint)  # a tar is that of all its samples
    locks_in = store.root() / "tmp"
    try:
        locks_in.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store.disk_error(error, store.root()) from error
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, inputs in list(shards.items())[rank::world]:
            states = [_state(pair, fingerprint) for pair in inputs]
            parts = {"weights": weights, "size": size, "embeddings": asked.embeddings,
                     "moments": asked.moments, "inputs": states}  # fmt: skip
            key, tar = content_key.key(parts), out / f"{name}.tar"
            keys[tar] = key
            lock = locks_in / f"shard-{content_key.key({'tar': str(tar.resolve())})}.lock"
            with locks.held(lock, str(tar)):
                if tar.is_file() and tar_index.made_of(tar) == key:
                    kept += 1
                    continue
                encoder = encoder or Encoder(config, asked.embeddings, asked.moments)
                _write(encoder, tar, inputs, key)
    except OSError as error:
        raise store.disk_error(error, out, "another OUT") from error
    if lost := [tar.name for tar, key in keys.items() if tar_index.made_of(tar) != key]:
        raise SdxlError(
            f"another command wrote shards of other pictures or settings into {out} meanwhile",
            " ".join(lost[:5]),
            "a folder for each",
        )
    return {"samples": pairs, "without_caption": uncaptioned, "shards": len(shards), "kept": kept}


def _write(encoder: Encoder, tar: Path, pairs: Sequence[Pair], key: str) -> None:
    """A tar, whole or not at all, then its index."""
    partial = tar.with_name(f".{tar.stem}.part")
    try:
        with tarfile.open(partial, "w:") as opened:
            for pair, sample in zip(pairs, encoder.samples(pairs), strict=True):
                for name, content in sample.items():
                    _add(opened, f"{pair.name}.{name}", content)
        partial.replace(tar)
    finally:
        partial.unlink(missing_ok=True)
    tar_index.write(tar, key, [(s.name, s.parts) for s in tars.members(0, tar)])


def _shards(images: Path, per_shard: int) -> tuple[dict[str, list[Pair]], int]:
    """The pairs of each shard by its name, and how many pictures have no caption."""
    if images.is_file() or (not images.is_dir()) or any(images.glob("*.tar")):
        files = tars.files_of(str(images))
        _refuse_equal(files)
        found = {file.stem: [*_within(file)] for file in files}
        lone = sum(pair is None for each in found.values() for pair in each)
        return {n: [pair for pair in each if pair] for n, each in found.items()}, lone
    files = pictures.find(images)
    told = [file for file in files if file.with_suffix(".txt").is_file()]
    pairs = [Pair(f"{n:08d}", f, f.with_suffix(".txt")) for n, f in enumerate(told)]
    parts = [pairs[start : start + per_shard] for start in range(0, len(pairs), per_shard)]
    return {f"{number:06d}": part for number, part in enumerate(parts)}, len(files) - len(told)


def _refuse_equal(files: Sequence[Path]) -> None:
    """Tars of one name would become one tar, of the last of them."""
    names = Counter(file.stem for file in files)
    if twice := [str(file) for file in files if names[file.stem] > 1]:
        raise UserError(
            "tars of one name cannot become tars of their names", " ".join(twice[:5]),
            "a name for each, or a command and an OUT for each folder",
            f"python -m sdxl shards {shlex.quote(str(Path(twice[0]).parent))} OUT",
        )  # fmt: skip


def _within(tar: Path) -> Iterator[Pair | None]:
    """The pictures of a tar with their captions; None for one without."""
    for sample in tars.members(0, tar):
        shown = [part for part in sample.parts if f".{part}".lower() in pictures.SUFFIXES]
        if len(shown) != 1:
            said = " ".join(sample.parts)
            raise UserError(
                f"{tar}: sample `{sample.name}` has {len(shown)} pictures", said, "one",
                "a tar of pictures and captions: name.jpg and name.txt",
            )  # fmt: skip
        places = sample.parts[shown[0]], sample.parts.get("txt")
        yield None if places[1] is None else Pair(sample.name, tar, tar, (places[0], places[1]))


def _state(pair: Pair, fingerprint: Callable[[Path], str]) -> list[Any]:
    """What tells a pair from another without reading it."""
    files = [pair.picture] if pair.within else [pair.picture, pair.caption]
    return [pair.name, *map(fingerprint, files)]


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def main(words: Sequence[str] | None = None) -> int:
    """The command; prints one JSON object at the end and returns the exit code."""
    return ended(lambda: _run(words))


def _run(words: Sequence[str] | None) -> dict[str, Any]:
    parser = Parser(prog="python -m sdxl shards", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, help="pictures with their captions, or tars of both")
    parser.add_argument("out", type=Path, help="folder of the tar files")
    parser.add_argument("overrides", nargs="*", help="settings of the model: model=sdxl ...")
    parser.add_argument("--per-shard", type=int, default=1000, help="samples of a tar file")
    parser.add_argument("--embeddings", action="store_true", help="keep the text embeddings, too")
    parser.add_argument(
        "--moments", action="store_true", help="the VAE's mean and log-variance in place of latents"
    )
    given = parser.parse_args(words)
    config = _configuration(given.overrides)
    machine.use(config.model.device)
    asked = Asked(given.per_shard, given.embeddings, given.moments)
    return {**write(config, given.images, given.out, asked), "folder": str(given.out)}


def _configuration(overrides: list[str]) -> Config:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    from sdxl.config.explain import problems_in
    from sdxl.config.load import load
    from sdxl.config.registry import register

    register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return load(compose("run", overrides=overrides), overrides)
    except HydraException as error:
        problems = problems_in("run", overrides)
        raise ConfigError(problems or [Problem(str(error).strip())]) from error
