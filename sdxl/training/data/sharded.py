"""Reading shards of latents, whose layout `sdxl.training.data.shards` tells: any row, any time.

With the standard library, not with the package webdataset: that one streams and shuffles a buffer,
so a training could not go on where it stopped; here each row's place is known, and the rows of a
step are a function of the seed. Files must be uncompressed and on a disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdxl.config.schema import Config
from sdxl.core.errors import UserError
from sdxl.model import components, networks, prompts
from sdxl.model.components import torch_device
from sdxl.model.sources import open_source
from sdxl.training.data import embed, tars
from sdxl.training.data.tars import FIX, LATENTS, MOMENTS, Sample

HIDDEN, POOLED = "hidden.npy", "pooled.npy"
_OPEN = 64
"""Tar files kept open."""
_UNREADABLE = (OSError, ValueError, EOFError, TypeError, AttributeError, RuntimeError)
"""What reading raises of a sample that is none."""
_VAE = {"scaling_factor": 0.18215}
"""diffusers' own default, for a config.json that says nothing of it."""


class Shards:
    """Rows of tar files, each read where it lies.

    Embeddings are used if every sample has both; otherwise every sample must have a caption.
    """

    def __init__(self, config: Config, place: str) -> None:
        self.files = tars.files_of(place)
        self.samples = [s for n, file in enumerate(self.files) for s in tars.index(n, file)]
        self.count = len(self.samples)
        if not self.count:
            raise UserError("the shards hold no sample", place, LATENTS, FIX)
        self.embedded = all({HIDDEN, POOLED} <= s.parts.keys() for s in self.samples)
        if not self.embedded:
            for sample in self.samples:
                self._check_caption(sample)
        self.moments = any(LATENTS not in s.parts for s in self.samples)
        self._lock = threading.RLock()  # rows are read ahead by a thread
        self._handles: OrderedDict[int, Any] = OrderedDict()
        self.identity = self._identity()
        self.size = config.model.height, config.model.width
        self._source = open_source(config.model, config.seed)
        self._vae = SimpleNamespace(**{**_VAE, **self._source.configs["vae"]})
        self._device = torch_device(config.model.device)
        self._encoders: tuple[Any, Any] | None = None
        self.none = self._encode(embed.unconditional(config.model))
        if self.embedded:
            self._encoders = None  # the embeddings lie in the shards

    def _check_caption(self, sample: Sample) -> None:
        """There is something to read a caption from."""
        self._told(sample, "" if {"txt", "json"} & sample.parts.keys() else None)

    def _told(self, sample: Sample, caption: Any) -> str:
        """The sample's caption; raises `UserError` where it is none."""
        where = f"{self.files[sample.file]}: sample `{sample.name}`"
        if caption is None:
            raise UserError(f"{where} has no caption", " ".join(sample.parts), "txt or json", FIX)
        if not isinstance(caption, str):
            said = json.dumps(caption)
            raise UserError(
                f"{where} has a caption that is no text", said, 'json: {"caption": "..."}'
            )
        return caption

    def rows(
        self, rows: np.ndarray, noise: Tensor | None = None, /
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """latents, hidden, pooled, time_ids of these rows, float32 on the CPU.

        noise (B, 4, h, w), normal: what latents are drawn with from moments; else their means.
        """
        read = [self._checked(self.samples[int(row)]) for row in rows]
        latents = self._latents(read, noise)
        if self.embedded:
            hidden, pooled = (torch.stack([s[part] for s in read]) for part in (HIDDEN, POOLED))
        else:
            hidden, pooled = self._encode([sample["caption"] for sample in read])
        sizes = torch.tensor([sample["time_ids"] for sample in read], dtype=torch.float32)
        return latents, hidden, pooled, sizes

    def told(self, rows: np.ndarray, noise: Tensor | None) -> tuple[Tensor, list[str]]:
        """The latents of `rows` and their captions; embeddings are not read."""
        found = [self.samples[int(row)] for row in rows]
        for sample in found:
            self._check_caption(sample)
        read = [self._checked(sample, embeddings=False) for sample in found]
        texts = [
            self._told(*each) for each in zip(found, (s["caption"] for s in read), strict=True)
        ]
        return self._latents(read, noise), texts

    def _latents(self, read: Sequence[Mapping[str, Any]], noise: Tensor | None) -> Tensor:
        found = torch.empty(len(read), 4, *(side // 8 for side in self.size))
        drawn = torch.tensor([bool(sample["moments"]) for sample in read])
        if moments := [each for sample in read for each in sample["moments"]]:
            noise = None if noise is None else noise[drawn]
            found[drawn] = components.of_moments(torch.stack(moments), noise, self._vae)
        for place, sample in enumerate(read):
            if not sample["moments"]:
                found[place] = sample[LATENTS]
        return found

    def texts(self, rows: np.ndarray) -> list[str]:
        """The captions of the rows; raises `UserError` for a sample that has none."""
        found = []
        for sample in (self.samples[int(row)] for row in rows):
            self._check_caption(sample)
            found.append(self._told(sample, self._checked(sample)["caption"]))
        return found

    def _checked(self, sample: Sample, embeddings: bool = True) -> dict[str, Any]:
        """The sample's tensors and facts; `UserError` names it if it does not fit the model."""
        where = f"{self.files[sample.file]}: sample `{sample.name}`"
        try:
            found = self._read(sample, embeddings)
        except _UNREADABLE as error:
            whole = "text in UTF-8" if isinstance(error, UnicodeDecodeError) else "a whole one"
            raise UserError(f"{where} cannot be read", str(error), whole, FIX) from error
        height, width = self.size
        shape = tuple(found[LATENTS].shape)
        if shape != (4, height // 8, width // 8):
            fix = (
                f"model.height={shape[1] * 8} model.width={shape[2] * 8}"
                if len(shape) == 3
                else FIX
            )
            raise UserError(
                f"{where} has latents of another size than the model draws",
                shape, (4, height // 8, width // 8), fix,
            )  # fmt: skip
        if not torch.isfinite(found[LATENTS]).all():
            raise UserError(f"{where} has latents that are no numbers", "NaN or Inf", None, FIX)
        expected = {HIDDEN: tuple(self.none[0].shape[1:]), POOLED: tuple(self.none[1].shape[1:])}
        for name in (HIDDEN, POOLED) if self.embedded and embeddings else ():
            if found[name].shape != expected[name]:
                shape = tuple(found[name].shape)
                raise UserError(f"{where} has another model's {name}", shape, expected[name], FIX)
        if not self.embedded:
            self._told(sample, found["caption"])
        if len(found["time_ids"]) != 6:
            raise UserError(
                f"{where} has other sizes than SDXL is told", found["time_ids"],
                "original_size, crop, target_size: two pixels each", FIX,
            )  # fmt: skip
        return found

    def _read(self, sample: Sample, embeddings: bool = True) -> dict[str, Any]:
        """Of moments (8, h, w) the latents are the means as the VAE has them, not scaled."""
        found: dict[str, Any] = {}
        kind = LATENTS if LATENTS in sample.parts else MOMENTS
        for name in (kind, HIDDEN, POOLED) if self.embedded and embeddings else (kind,):
            found[name] = _floats(self._bytes(sample, name))
        if found[kind].dim() == 4 and len(found[kind]) == 1:
            found[kind] = found[kind][0]  # a batch of one, as it left an encoder
        found["moments"] = []
        if kind == MOMENTS:
            found["moments"] = [moments := found.pop(MOMENTS)]
            found[LATENTS] = moments.chunk(2)[0]
        facts = json.loads(self._bytes(sample, "json")) if "json" in sample.parts else {}
        caption = facts.get("caption")
        if "txt" in sample.parts:
            caption = self._bytes(sample, "txt").decode("utf-8-sig").strip()
        whole = list(self.size)
        keys = (("original_size", whole), ("crop", [0, 0]), ("target_size", whole))
        sizes = [float(value) for key, usual in keys for value in facts.get(key, usual)]
        return {**found, "caption": caption, "time_ids": sizes}

    def _bytes(self, sample: Sample, part: str) -> bytearray:
        number = sample.file
        offset, length = sample.parts[part]
        with self._lock:
            if number not in self._handles:
                self._handles[number] = self.files[number].open("rb")
                if len(self._handles) > _OPEN:
                    self._handles.popitem(last=False)[1].close()
            self._handles.move_to_end(number)
            handle = self._handles[number]
            handle.seek(offset)
            content = bytearray(length)
            del content[handle.readinto(content) :]
        return content

    def _identity(self) -> list[list[str]]:
        """For each file its name, and a digest of where what lies and of one sample's latents."""
        digests = [hashlib.sha256(file.name.encode()) for file in self.files]
        last = {sample.file: sample for sample in self.samples}
        for sample in self.samples:
            digests[sample.file].update(f"{sample.name}{sample.parts}".encode())
        for number, sample in last.items():
            kind = LATENTS if LATENTS in sample.parts else MOMENTS
            digests[number].update(self._bytes(sample, kind))
        return [
            [file.name, digest.hexdigest()[:16]]
            for file, digest in zip(self.files, digests, strict=True)
        ]

    def _encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        with self._lock:
            if self._encoders is None:
                self._encoders = embed.text_encoders(self._source, self._device)
                self._tokenizers = self._source.tokenizers()
        ids = prompts.tokenize(texts, self._tokenizers)
        made = networks.encode(*self._encoders, ids, torch.float32)
        return made.hidden.cpu().clone(), made.pooled.cpu().clone()


def _floats(content: bytearray) -> Tensor:
    """The array of a `.npy` file in float32, over `content` where it is already."""
    if content[:8] == b"\x93NUMPY\x01\x00":
        start = 10 + int.from_bytes(content[8:10], "little")
        shape, by_columns, dtype = _layout(bytes(content[8:start]))
        flat = np.frombuffer(content, dtype, math.prod(shape), start)
        array = flat.reshape(shape, order="F" if by_columns else "C")
    else:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    return torch.from_numpy(array if array.dtype.isnative else array.astype(np.float32)).float()


@lru_cache(64)
def _layout(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type: most samples say the same in the same words."""
    found: tuple[tuple[int, ...], bool, np.dtype[Any]]
    found = np.lib.format.read_array_header_1_0(io.BytesIO(header))
    return found
