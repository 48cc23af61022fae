"""Latents of pictures and embeddings of texts, written block by block as memory-mapped files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap

from sdxl import networks, prompts
from sdxl.training.vae import tensor

_BLOCK = 250


@torch.inference_mode()
def write_latents(folder: Path, vae: Any, pictures: np.ndarray) -> None:
    """`latents.npy`, float32 (N, 4, h, w) of unit variance, of uint8 pictures (N, H, W, 3)."""
    count, height, width = pictures.shape[:3]
    shape = (count, 4, height // 8, width // 8)
    out = open_memmap(folder / "latents.npy", mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, count, _BLOCK):
        mean = vae.encode(tensor(pictures[start : start + _BLOCK])).latent_dist.mean
        out[start : start + _BLOCK] = (mean * vae.config.scaling_factor).numpy()
    out.flush()


def write_embeddings(
    folder: Path, encoders: tuple[Any, Any], tokenizers: tuple[Any, Any], texts: Sequence[str],
    unconditional: Sequence[str],
) -> None:  # fmt: skip
    """`hidden.npy` (N, 77, D) and `pooled.npy` (N, P) of the texts, `none_*` of others; fp16."""
    files: dict[str, Any] = {}
    for name, lines in (("", list(texts)), ("none_", list(unconditional))):
        ids = prompts.tokenize(lines, tokenizers)
        for start in range(0, len(lines), _BLOCK):
            rows = ids.rows(slice(start, start + _BLOCK))
            made = networks.encode(*encoders, rows, torch.float32)
            for part, value in (("hidden", made.hidden), ("pooled", made.pooled)):
                if f"{name}{part}" not in files:
                    files[f"{name}{part}"] = open_memmap(
                        folder / f"{name}{part}.npy", mode="w+", dtype=np.float16,
                        shape=(len(lines), *value.shape[1:]),
                    )  # fmt: skip
                files[f"{name}{part}"][start : start + _BLOCK] = value.numpy()
    for file in files.values():
        file.flush()
