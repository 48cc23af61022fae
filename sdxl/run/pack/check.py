"""What a pack is checked with: pictures of the record, what they were drawn from, and the outcome.

The other tool draws in a process of its own, which knows nothing of this package.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sdxl.core.errors import SdxlError, UserError
from sdxl.core.record import Image, Record

FOLDER = "check"
SCRIPT = "verify.py"
LEAST_DB = 30.0
"""PSNR to the record's pictures that another tool's arithmetic leaves."""
UNKNOWN_DB = 20.0
"""For a quantized record that was compared with no baseline."""
NOISE_DB = 6.0
"""How much further than the record is from its baseline a quantized pack may be from the record:
twice the error, as if both rounded and neither knew of the other."""

LIMIT_S = 7200.0
"""Longest that the other tool may take, for its model and every picture on a slow processor."""


@dataclass(frozen=True)
class Picture:
    """One picture of the record, as the pack holds it."""

    file: str
    prompt: str
    row: int
    seed: int  # of the noise that its steps add


@dataclass(frozen=True)
class Outcome:
    """What the other tool drew; psnr_db is None where every pixel is equal."""

    verified: bool
    reason: str = ""
    pictures: int = 0
    psnr_db: float | None = None
    largest: int | None = None
    least_db: float | None = None
    versions: dict[str, str] | None = None

    def said(self) -> str:
        """In words."""
        if not self.verified:
            return f"not verified: {self.reason}"
        near = "equal" if self.psnr_db is None else f"PSNR {self.psnr_db:.1f} dB"
        tools = ", ".join(f"{name} {version}" for name, version in (self.versions or {}).items())
        return (
            f"verified: {self.pictures} of the record's pictures drawn by {tools}: {near}, "
            f"largest deviation {self.largest}/255"
        )


def chosen(record: Record, place: Path, most: int) -> list[Image]:
    """The pictures that are compared: the record's first, in its folder `place`.

    Raises `SdxlError` for one that is gone.
    """
    kept = [image for image in record.images if image.file and image.row is not None][:most]
    for image in kept:
        if not (place / image.file).is_file():
            raise SdxlError(
                "a picture of the record is gone",
                f"{place / image.file}",
                image.file,
                "--check 0   # packs without comparing",
            )
    return kept


def copy(images: Sequence[Image], place: Path, folder: Path, seeds: Sequence[int]) -> list[Picture]:
    """Take pictures out of the record's folder `place` into the pack."""
    (folder / FOLDER).mkdir()
    found = []
    for number, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        file = f"{FOLDER}/{number}.png"
        shutil.copyfile(place / image.file, folder / file)
        found.append(Picture(file, image.caption, image.row or 0, seed))
    return found


def least_db(record: Record, quantized: bool) -> float:
    """The PSNR that a pack must reach."""
    theirs = record.quality.baseline
    if not quantized:
        return LEAST_DB
    if not theirs:
        return UNKNOWN_DB
    return LEAST_DB if theirs.psnr_db is None else min(LEAST_DB, theirs.psnr_db - NOISE_DB)


def interpreter(word: str) -> str:
    """Where `--python` is, wherever it is started from; raises `UserError` if it is not there."""
    found = shutil.which(Path(word).expanduser())
    if not found:
        raise UserError(
            "`--python` is no program that can be started", word,
            "the interpreter that has the other tool", "--python ENVIRONMENT/bin/python",
        )  # fmt: skip
    return str(Path(found).absolute())  # a link into an environment stays one


def verify(folder: Path, python: str, least: float, install: str) -> Outcome:
    """Run the pack's own script with another tool alone, and judge.

    python: the interpreter that has the tool. Raises `SdxlError` if the tool cannot draw with the
    pack, draws other pictures, or is not done after `LIMIT_S`.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [python, "-s", SCRIPT],
            cwd=folder,
            env=env | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise SdxlError(
            "the other tool does not end",
            f"no pictures after {LIMIT_S:,.0f} s",
            "pictures of the record",
            "--check 1   # or 0, which packs without comparing",
        ) from error
    finally:
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        said = done.stderr.strip().splitlines()
        raise SdxlError(
            "the other tool cannot draw with the pack", said[-1] if said else done.returncode
        ) from error
    if missing := found.get("missing"):
        return Outcome(False, f"{missing} is not installed; {install} && python {SCRIPT}")
    psnr = found["psnr_db"]
    if psnr is not None and psnr < least:
        raise SdxlError(
            "the other tool draws other pictures than the record has",
            f"PSNR {psnr:.1f} dB, largest deviation {found['largest']}/255",
            f"at least {least:.1f} dB",
            "--check 0   # packs without comparing",
        )
    return Outcome(True, "", found["pictures"], psnr, found["largest"], least, found["with"])


def told(outcome: Outcome) -> dict[str, object]:
    """The outcome for the pack's manifest."""
    return asdict(outcome)
