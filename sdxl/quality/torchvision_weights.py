"""Weights by path for networks that would fetch them: a file stands where torch.hub looks first."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sdxl.core.errors import UserError


@contextmanager
def standing_for(weights: Path, name: str) -> Iterator[None]:
    """Inside, torchvision's file `name` is `weights`, and nothing is fetched.

    Raises `UserError` unless the file holds tensors and nothing else.
    """
    only_tensors(weights)
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "checkpoints"
        place.mkdir()
        (place / name).symlink_to(weights.resolve())
        torch.hub.set_dir(folder)
        try:
            yield
        except RuntimeError as error:  # tensors of another network
            said = str(error).splitlines()[0]
            raise UserError(f"{weights} is not {name}", said, name) from error
        finally:
            torch.hub.set_dir(before)


def only_tensors(path: Path) -> None:
    """Raise `UserError` unless the file is a state dict that can be read without running code.

    Libraries load such a file with pickle; after this there is nothing in it to run.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises a dozen kinds
        said = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read", said, "a state dict of tensors") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no state dict", type(found).__name__, "tensors by name")
