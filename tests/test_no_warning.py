"""A run, a sweep, an export and a training end with no warning on standard error."""

import re

import pytest

WARNING = re.compile(r"warn|leaked|semaphore|deprecat|traceback|exception ignored", re.IGNORECASE)
SMALL = ("model=tiny_random", "model.steps=1", "model.height=64", "model.width=64", "rules=open",
         "limit=2", "quality=none", "backend.batch_size=2")  # fmt: skip


FINISHED = (0, 3)
"""INVALID, too: whether LoadGen finds enough queries is a matter of the machine's load."""


def warned(screen):
    """Lines that warn; of these screens, which name no setting or file of such a name."""
    return [line for line in screen.splitlines() if WARNING.search(line)]


def test_what_counts_as_a_warning():
    told = (
        "resource_tracker: There appear to be 6 leaked semaphore objects to clean up at shutdown",
        "  warnings.warn('The given NumPy array is not writable')",
        "Exception ignored in: <function Pool.__del__>",
    )
    assert warned("tiny torch Offline: drawing, 2/2\n" + "\n".join(told)) == [*told]


@pytest.mark.slow
def test_a_run(cli):
    done = cli(*SMALL, "tracking=mlflow", timeout=300)
    assert done.code in FINISHED, done.err
    assert not warned(done.err)


@pytest.mark.slow
def test_a_sweep(cli):
    done = cli("-m", *SMALL, "precision=fp32,bf16", timeout=500)
    assert done.code in FINISHED, done.err
    assert not warned(done.err)


@pytest.mark.slow
def test_an_export(exported):
    assert exported.screen and not warned(exported.screen)


@pytest.mark.slow
def test_a_training(cli):
    done = cli("train=smoke", "train.steps=2", "train.batch=2", "train.scenes=66", "train.size=32",
               script="train.py", timeout=300)  # fmt: skip
    assert done.code == 0, done.err
    assert not warned(done.err)
