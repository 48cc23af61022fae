"""Decoding of one batch beside the denoising of the next, where a backend has a stream for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from sdxl.model.sampler import Sampler

Decode = Callable[[], np.ndarray]
"""Makes the pictures, or raises."""


class Overlapped(Sampler):
    """A `Sampler` whose VAE has a thread, so that copies and host work wait there too.

    Each batch's latents are a copy of their own and have arrived when `latents` returns (it looks
    whether they are finite), so both streams need no other order. The thread is the same in the
    warm-up: its libraries' handles and workspaces are there before the measurement.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._start()

    def _start(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._last: Future[Any] | None = None

    def generate(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 images (B, H, W, 3) of the prompts at these positions."""
        return self.begin(indices, lambda decode: decode()).result()

    def begin(self, indices: Sequence[int], deliver: Callable[[Decode], Any]) -> Future[Any]:
        """Denoise now, then call `deliver(decode)` in the VAE's thread.

        Returns as soon as the batch before is delivered: no more than one waits for the VAE.
        """
        latents = self.latents(indices)
        if self._last:
            self._last.exception()  # waits; whoever began that batch asks for its outcome
        self._last = self._thread.submit(deliver, lambda: self.stages.decode(latents))
        return self._last

    def close(self) -> None:
        """Close the backend once nothing is being decoded."""
        self._thread.shutdown()
        super().close()
