"""Latents of pictures and embeddings of texts, written block by block as memory-mapped files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from sdxl.model import components, networks, prompts
from sdxl.quality.scenes.networks import to_tensor

_BLOCK = 250
"""Texts at once, and pictures of 128 x 128 pixels; of larger ones as many pixels."""


@torch.inference_mode()
def write_latents(folder: Path, vae: Any, pictures: np.ndarray) -> None:
    """`latents.npy`, float32 (N, 4, h, w) of unit variance, of uint8 pictures (N, H, W, 3)."""
    count, height, width = pictures.shape[:3]
    shape = (count, 4, height // 8, width // 8)
    out = open_memmap(folder / "latents.npy", mode="w+", dtype=np.float32, shape=shape)
    block = max(1, _BLOCK * 128**2 // max(128**2, height * width))
    for start in range(0, count, block):
        pixels = to_tensor(pictures[start : start + block]).to(vae.device)
        out[start : start + block] = components.encode(vae, pixels).cpu().numpy()
    out.flush()


@torch.inference_mode()
def rebuilt(vae: Any, pictures: np.ndarray) -> np.ndarray:
    """uint8 pictures (N, H, W, 3) as the VAE shows them."""
    parts = []
    for part in np.array_split(pictures, max(1, len(pictures) // 64)):
        latents = vae.encode(to_tensor(part)).latent_dist.mean
        parts.append(uint8(vae.decode(latents).sample))
    return np.concatenate(parts)


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
                files[f"{name}{part}"][start : start + _BLOCK] = value.cpu().numpy()
    for file in files.values():
        file.flush()


def uint8(images: Tensor) -> np.ndarray:
    """float (B, 3, H, W) in -1..1 -> uint8 (B, H, W, 3)."""
    scaled = ((images.float() + 1) * 127.5).round().clamp(0, 255)
    found: np.ndarray = scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return found
