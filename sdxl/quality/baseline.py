"""A handful of pictures against the baseline's: seconds, before any long measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdxl.quality.paired import interval

PEAK = 255.0


def compare(reference: Sequence[Any], pictures: Sequence[Any]) -> dict[str, Any]:
    """PSNR, SSIM and largest deviation of uint8 pictures (H, W, 3), pair by pair.

    As `summary` has it. Raises `ValueError` if the numbers or shapes of the pictures differ.
    """
    if len(reference) != len(pictures) or not len(reference):
        raise ValueError(f"pictures must come in pairs: {len(reference)} and {len(pictures)}")
    pairs = [pair(*both) for both in zip(reference, pictures, strict=True)]
    return {**summary(pairs), "pairs": pairs}


def summary(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What pairs of pictures have in common.

    `psnr_db` and `ssim` are means over the pairs, `psnr_min_db` and `ssim_min` the worst pair;
    PSNR is that of the pairs that differ, None if none does; `max_deviation` is in steps of 255;
    `mean_square`, of the differences in all pairs, is a share of full scale squared.
    `intervals`: 95 % of both means.
    """
    differing = [each["psnr_db"] for each in pairs if each["psnr_db"] is not None]
    ssim = [each["ssim"] for each in pairs]
    squares = sum(10 ** (-each / 10) for each in differing)
    return {
        "images": len(pairs),
        "identical": len(pairs) - len(differing),
        "psnr_db": float(np.mean(differing)) if differing else None,
        "psnr_min_db": min(differing, default=None),
        "mean_square": squares / len(pairs),
        "ssim": float(np.mean(ssim)),
        "ssim_min": min(ssim),
        "max_deviation": max(each["max_deviation"] for each in pairs),
        "mean_deviation": float(np.mean([each["mean_deviation"] for each in pairs])),
        "intervals": {
            name: [*interval(values)]
            for name, values in (("psnr_db", differing), ("ssim", ssim))
            if len(values) > 1
        },
    }


def pair(reference: Any, picture: Any) -> dict[str, Any]:
    """PSNR (None for equal pictures), SSIM and deviations of one pair, uint8 (H, W, 3)."""
    one, other = np.asarray(reference), np.asarray(picture)
    if one.shape != other.shape or one.dtype != np.uint8 or other.dtype != np.uint8:
        raise ValueError(
            f"a picture and its baseline must be uint8 and of one shape, not {one.dtype} "
            f"{one.shape} and {other.dtype} {other.shape}"
        )
    difference = one.astype(np.float64) - other.astype(np.float64)
    error = float(np.mean(difference**2))
    return {
        "psnr_db": float(10 * np.log10(PEAK**2 / error)) if error else None,
        "ssim": _ssim(one, other),
        "max_deviation": int(np.abs(difference).max()),
        "mean_deviation": float(np.abs(difference).mean()),
    }


def _ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Wang's structural similarity, Gaussian window of 11 and sigma 1.5, on 0..1."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    def tensor(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image.astype(np.float32) / PEAK).permute(2, 0, 1)[None]

    value: Any = structural_similarity_index_measure(tensor(one), tensor(other), data_range=1.0)
    return float(value)
