"""MLPerf's shared initial latent, made bit for bit on any machine, without a download.

The published `latents.npy` is `randn((1, 4, 128, 128))` of a torch of 2023 with seed 0. Today's
torch draws the same numbers only up to the last bit (636 of 65,536 differ, by at most 2.4e-7, and
25,402 where it runs without AVX2), so its algorithm of then is written out here: MT19937, 24-bit
uniforms, Box-Muller in blocks of 16, and Cephes' single-precision log, sin and cos. NumPy rounds
every single operation, so the result does not depend on the processor.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdxl.core.errors import UserError

Floats = NDArray[np.float32]

SHAPE = (1, 4, 128, 128)
_BLOCK = 16
"""Box-Muller pairs: the first half of a block gives radii, the second half angles."""

_LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)  # fmt: skip
_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_LN2 = (-2.12194440e-4, 0.693359375)
_QUARTER_PI = (0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8)
"""pi/4 in three parts, so that the argument is reduced without losing bits."""


def mlperf(seed: int = 0) -> Floats:
    """The latent of every MLPerf SDXL sample, float32 (1, 4, 128, 128)."""
    # RandomState's stream is frozen, and seeded as torch seeds its own MT19937.
    raw = np.random.RandomState(seed).randint(0, 1 << 32, int(np.prod(SHAPE)), dtype=np.uint32)
    bits = (raw & np.uint32(0xFFFFFF)).astype(np.float32)
    uniform = (bits / np.float32(1 << 24)).reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(np.float32(-2) * _log(np.float32(1) - uniform[:, 0]))
    sin, cos = _sin_cos(np.float32(2 * np.pi) * uniform[:, 1])
    return np.stack([radius * cos, radius * sin], axis=1).reshape(SHAPE)


def read(path: Path) -> Floats:
    """A latent from `.npy` or from `.pt` (a tensor alone; nothing in the file is run)."""
    try:
        if path.suffix == ".pt":
            import torch

            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(loaded, torch.Tensor):
                raise ValueError(f"a {type(loaded).__name__} in place of a tensor")
            found = loaded.numpy()
        else:
            found = np.load(path, allow_pickle=False)
            if not isinstance(found, np.ndarray):
                raise ValueError("several arrays in place of one")
    except (OSError, ValueError, EOFError, RuntimeError, TypeError) as error:
        raise _unfit(path, str(error).splitlines()[0]) from error
    except Exception as error:  # pickle's own errors, by whatever name
        raise _unfit(path, type(error).__name__) from error
    if found.shape != SHAPE or found.dtype != np.float32:
        raise _unfit(path, f"{found.dtype} {found.shape}")
    return found


def values_sha256(latent: Floats) -> str:
    """SHA-256 of the numbers alone (little-endian), whatever file they came in."""
    return hashlib.sha256(np.ascontiguousarray(latent, dtype="<f4").tobytes()).hexdigest()


def _unfit(path: Path, got: str) -> UserError:
    return UserError(f"{path} is not a latent", got, f".npy or .pt with float32 {SHAPE}")


def _polynomial(x: Floats, coefficients: tuple[float, ...]) -> Floats:
    total = np.full_like(x, np.float32(coefficients[0]))
    for each in coefficients[1:]:
        total = total * x + np.float32(each)
    return total


def _log(x: Floats) -> Floats:
    """Natural logarithm of positive normal numbers."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < np.float32(np.sqrt(0.5))
    e = exponent.astype(np.float32) - small.astype(np.float32)
    m = (mantissa - np.float32(1)) + np.where(small, mantissa, np.float32(0))
    square = m * m
    y = _polynomial(m, _LOG) * m * square
    y = y + e * np.float32(_LN2[0])
    y = y - square * np.float32(0.5)
    return (m + y) + e * np.float32(_LN2[1])


def _sin_cos(x: Floats) -> tuple[Floats, Floats]:
    """Sine and cosine of angles in [0, 2 pi], reduced to [-pi/4, pi/4]."""
    octant = ((x * np.float32(4 / np.pi)).astype(np.int32) + 1) & ~1
    for part in _QUARTER_PI:
        x = x - octant.astype(np.float32) * np.float32(part)
    z = x * x
    cos = _polynomial(z, _COS) * z * z - z * np.float32(0.5) + np.float32(1)
    sin = _polynomial(z, _SIN) * z * x + x
    swapped = (octant & 2) != 0
    sign_sin = np.where((octant & 4) != 0, np.float32(-1), np.float32(1))
    sign_cos = np.where(((octant + 2) & 4) != 0, np.float32(-1), np.float32(1))
    return sign_sin * np.where(swapped, cos, sin), sign_cos * np.where(swapped, sin, cos)
