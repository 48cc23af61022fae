"""A generator whose pictures are its orders' seeds, with faults by seed, for workers of tests."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from sdxl.core.errors import StageError

SIDE = 16
KILLS, HANGS, NOT_FINITE, CONSTANT, KILLS_ONCE, CUT, SLOW = 66, 67, 68, 69, 70, 71, 72
MARK = "SDXL_TEST_MARK"


class Odd:
    """Draws a ramp above the seed."""

    cut = ()

    def draw(self, orders):
        seeds = [order.seed for order in orders]
        self.cut = [place for place, seed in enumerate(seeds) if seed == CUT]
        mark = Path(os.environ.get(MARK, "/nowhere"))
        if KILLS in seeds or (KILLS_ONCE in seeds and not mark.exists()):
            mark.parent.is_dir() and mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if NOT_FINITE in seeds:
            raise StageError("the picture has NaN")
        time.sleep(0.6 if SLOW in seeds else 0.01)
        return np.stack([picture(seed) for seed in seeds])

    def describe(self):
        return {"backend": "fake", "unet_rows_per_image": 2}

    def close(self):
        pass


def picture(seed):
    ramp = np.arange(SIDE * SIDE * 3, dtype=np.int64).reshape(SIDE, SIDE, 3) % 100
    return ((ramp if seed != CONSTANT else 0 * ramp) + seed % 150).astype(np.uint8)


def open_odd():
    return Odd()


def open_late():
    time.sleep(300)
