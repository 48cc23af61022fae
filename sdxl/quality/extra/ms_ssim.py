"""MS-SSIM (Wang et al. 2003): SSIM at five scales.   python run.py quality.extra=[ms_ssim]"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdxl.quality.extra import Metric, Paired


def _open(_: Path, device: Any) -> Paired:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    from sdxl.quality.pixels import unit

    def measure(ours: Any, theirs: Any) -> list[float]:
        sides = unit(ours, device), unit(theirs, device)
        found: Any = multiscale_structural_similarity_index_measure(
            *sides, data_range=1.0, reduction="none", kernel_size=_window(min(ours.shape[1:3]))
        )
        return [float(each) for each in found]

    return measure


def _window(side: int) -> int:
    """The window: 11 pixels as published, fewer where the fifth scale has no more."""
    return min(11, (side // 16) - (1 - side // 16 % 2))


METRIC = Metric("paired", True, _open, ("torchmetrics",))
