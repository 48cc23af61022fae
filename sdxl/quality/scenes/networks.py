"""The networks that judge pictures of scenes, as they lie beside the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from sdxl.core.errors import UserError
from sdxl.core.paths import BUNDLED
from sdxl.quality.scenes.encoder import FEATURES, Detector, PictureEncoder

FOLDER = "judge"
ENCODER, TEXT = "encoder.safetensors", "text_encoder"
"""The contrastive pair; its text half is not the model's, which went on with the UNet."""
DETECTOR = "detector.safetensors"
REFERENCE, INDEPENDENT = "reference.npz", "efficientnet.npy"
"""Rendered scenes: statistics in the picture encoder's features, EfficientNet's features."""
__all__ = ["FEATURES", "Alignment", "detector", "features", "picture_encoder"]


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in -1..1."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2) / 127.5 - 1


def picture_encoder(folder: Path = BUNDLED) -> PictureEncoder:
    """The picture half of the contrastive pair."""
    weights = _weights(folder / FOLDER / ENCODER)
    encoder = PictureEncoder()
    own = {k.removeprefix("pictures."): v for k, v in weights.items() if k.startswith("pictures.")}
    encoder.load_state_dict(own)
    return encoder.eval().requires_grad_(False)


def detector(folder: Path = BUNDLED) -> Detector:
    """The detector of solids."""
    network = Detector()
    network.load_state_dict(_weights(folder / FOLDER / DETECTOR))
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def features(encoder: PictureEncoder, pictures: np.ndarray) -> np.ndarray:
    """Features (B, 128), float32."""
    found: np.ndarray = encoder(to_tensor(pictures)).numpy()
    return found


@torch.inference_mode()
def perceptual(encoder: PictureEncoder, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distances (B,) of uint8 pictures (B, H, W, 3), pair by pair: 0 for equal ones, at most 16.

    LPIPS' form (Zhang et al. 2018) on our encoder, all channels alike: after each of the four
    blocks the features of every place are made unit vectors; their squared differences are
    averaged over places and summed over blocks. Not LPIPS: neither its network nor its weights.
    """
    sides = [to_tensor(pictures) for pictures in (one, other)]
    if sides[0].shape[-1] != 64:
        sides = [nn.functional.interpolate(side, (64, 64), mode="area") for side in sides]
    total = torch.zeros(len(one))
    for block in encoder.blocks:
        sides = [block(side) for side in sides]
        first, second = (nn.functional.normalize(side, dim=1) for side in sides)
        total += (first - second).square().sum(1).mean((1, 2))
    found: np.ndarray = total.numpy()
    return found


class Alignment:
    """How well captions and pictures fit, by the contrastive pair: cosines of -1 to 1."""

    def __init__(self, folder: Path = BUNDLED) -> None:
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        weights = _weights(folder / FOLDER / ENCODER)
        self.to_text = nn.Linear(FEATURES, len(weights["to_text.1.bias"]))
        self.to_text.load_state_dict({k: weights[f"to_text.1.{k}"] for k in ("weight", "bias")})
        self.tokenizer: Any = CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
        text: Any = CLIPTextModelWithProjection.from_pretrained(folder / FOLDER / TEXT)
        self.text = text.float().eval()

    @torch.inference_mode()
    def pictures(self, features: np.ndarray) -> np.ndarray:
        """Picture features (B, 128) as unit vectors of the common space."""
        found: np.ndarray = nn.functional.normalize(
            self.to_text(torch.from_numpy(features)), dim=-1
        ).numpy()
        return found

    @torch.inference_mode()
    def captions(self, texts: list[str]) -> np.ndarray:
        """Captions as unit vectors of the common space."""
        ids = self.tokenizer(
            texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        )["input_ids"]
        found: np.ndarray = nn.functional.normalize(
            self.text(input_ids=ids).text_embeds, dim=-1
        ).numpy()
        return found


def _weights(file: Path) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise UserError(
            "the networks that judge scenes are missing",
            str(file),
            fix="python -m sdxl bundle scenes sdxl/assets/scenes",
        )
    return {name: value.float() for name, value in load_file(file).items()}
