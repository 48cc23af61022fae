"""Python's garbage collector while libraries are imported.

They make a million objects that stay, and it would look at all of them again and again: a sixth
of the time that torch, diffusers and transformers take.
"""

import atexit
import gc

_USUAL = gc.get_threshold()


def relax() -> None:
    """Look far less often from now on; for a process that imports much and then does little."""
    gc.set_threshold(200_000, 50, 100)


def settle() -> None:
    """Look as often as usual, and never again at what is there: it stays, and forks share it."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # at the end libraries count what is left
    gc.set_threshold(*_USUAL)
