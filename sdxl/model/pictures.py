"""Picture files that people have, as 8-bit RGB: the one reader of all of them.

A picture is turned as its EXIF data say, 16-bit and float values are scaled, transparent parts
lie on white. What has no one meaning as a picture is refused, by its name.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sdxl.core.errors import UserError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files that are taken for pictures, in small letters."""
MOST_PIXELS = 178_956_970
"""As Pillow's own limit: half a gigabyte of bytes."""
_WIDE = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Modes of gray in more than 8 bits, which Pillow would clip."""
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, TypeError, struct.error, zlib.error)


def find(folder: Path) -> list[Path]:
    """All pictures below a folder in their order; names that begin with a dot are none."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def load(path: Path, content: bytes | None = None) -> np.ndarray:
    """The picture's pixels, uint8 (H, W, 3); raises `UserError` that names it.

    content: the file's bytes, where it lies in no file of its own.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path if content is None else io.BytesIO(content)) as opened:
            _check(opened)
            picture = ImageOps.exif_transpose(opened)
            return np.array(_rgb(picture, opened.format))
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        said = str(error) or type(error).__name__
        raise UserError(
            f"{path} cannot be read",
            said.replace(str(path), path.name),
            "a whole picture of one frame",
        ) from error


def _check(picture: Any) -> None:
    """Refuse what is too large, empty, or more than one picture."""
    width, height = picture.size
    if not width or not height:
        raise ValueError(f"{width} x {height} pixels")
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than {MOST_PIXELS:,}")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # a phone's JPEG with its preview or depth behind
        raise ValueError(f"{frames} frames")


def _rgb(picture: Any, kind: str | None) -> Any:
    """The picture in mode RGB."""
    from PIL import Image

    if picture.mode in _WIDE:
        values = np.asarray(picture, np.float64)
        return Image.fromarray(_bytes(values, picture.mode, kind)).convert("RGB")
    if picture.mode in _ALPHA or "transparency" in picture.info:
        over = picture.convert("RGBA")
        page = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(page, over).convert("RGB")
    return picture.convert("RGB")


def _bytes(values: np.ndarray, mode: str, kind: str | None) -> np.ndarray:
    """Wide values as bytes; raises `ValueError` where their range is not known."""
    least, most = values.min(), values.max()
    span = f"values from {least:g} to {most:g}"
    if mode == "F":
        if not (np.isfinite(values).all() and least >= 0 and most <= 1):
            raise ValueError(f"floating point, {span}; from 0 to 1 they would be a picture")
        scaled = values * 255
    elif mode == "I" and (kind not in ("PNG", "PPM") or least < 0 or most > 65535):
        raise ValueError(f"32-bit integers, {span}; 8 or 16 bits would be a picture")
    else:
        scaled = values / 257  # of 65535 to 255
    return np.asarray(scaled.round(), np.uint8)
