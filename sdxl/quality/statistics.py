"""FID's reference statistics of a folder.   python -m sdxl statistics DIR OUT.npz

MLPerf's val2014.npz is this over the 40,504 images of COCO val2014, at their native sizes. What is
done is kept beside OUT every few minutes; the same command goes on from there.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sdxl.config.schema import Device
from sdxl.core import store, terminal
from sdxl.core.command import Parser, ended
from sdxl.core.errors import SdxlError, UserError
from sdxl.model import pictures
from sdxl.quality import frechet, needs, settings

KEEP_EVERY_S = 120.0
REPORT_EVERY_S = 5.0
AHEAD = 32
"""Images decoded before the network wants them."""
MERGED = 32
"""Features merged into the statistics at a time; each image goes through the network alone."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; prints one JSON object at the end and returns the exit code."""
    return ended(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> dict[str, Any]:
    asked = _parser().parse_args(argv)
    return compute(asked.images, asked.out, store.resolve(asked.inception), asked.device)


def compute(images: Path, out: Path, weights: Path, device: str = "auto") -> dict[str, Any]:
    """Write `mu` and `sigma` of all images below a folder; returns counts and seconds."""
    from sdxl.model.components import torch_device
    from sdxl.quality import inception

    files = pictures.find(images)
    if len(files) < 2:
        raise UserError(f"{images} has too few images", f"{len(files)}", "a folder of pictures")
    if not weights.is_file():
        raise UserError("FID's Inception weights are missing", str(weights), fix=needs.DOWNLOAD)
    network = inception.load(weights, torch_device(Device(device)))
    work = _work(images, files, weights)
    partial = out.with_name(f".{out.name}.partial.npz")
    moments = _resume(partial, work, inception.FEATURES)
    begun, already = time.monotonic(), moments.count
    kept = told = begun
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for batch in batched(_decoded(files[already:]), MERGED):
            moments.add(np.concatenate([network.features(each[None]) for each in batch]))
            now = time.monotonic()
            if now - told >= REPORT_EVERY_S:
                told = now
                rate = (moments.count - already) / (now - begun)
                left = (len(files) - moments.count) / rate
                terminal.tell(f"{moments.count:,} of {len(files):,} images, {left:,.0f} s left")
            if now - kept >= KEEP_EVERY_S:
                kept = now
                _keep(partial, work, moments)
        frechet.write(out, moments.statistics())
    except OSError as error:
        raise store.disk_error(error, out.parent) from error
    except KeyboardInterrupt:
        _keep(partial, work, moments)
        raise SdxlError("interrupted; the same command goes on from here") from None
    partial.unlink(missing_ok=True)
    seconds = round(time.monotonic() - begun, 3)
    return {"images": len(files), "resumed_at": already, "seconds": seconds, "file": str(out)}


def _work(folder: Path, files: Sequence[Path], weights: Path) -> str:
    """Key of the pictures, by name, size and time of change, and of the network."""
    seen = [(str(path.relative_to(folder)), path.stat()) for path in files]
    named = "\n".join(f"{name} {facts.st_size} {facts.st_mtime_ns}" for name, facts in seen)
    return hashlib.sha256(f"{named}\n{store.sha256(weights)}".encode()).hexdigest()


def batched(items: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Lists of `size` items, the last one shorter (itertools has it from Python 3.12 on)."""
    while batch := list(islice(items, size)):
        yield batch


def _decoded(files: Sequence[Path]) -> Iterator[np.ndarray]:
    """The pictures in order, RGB uint8 (H, W, 3), decoded a few ahead."""
    waiting: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(4, thread_name_prefix="decode") as pool:
        try:
            for path in files:
                waiting.append(pool.submit(pictures.load, path))
                if len(waiting) >= AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _keep(path: Path, work: str, moments: frechet.Moments) -> None:
    temporary = path.with_name(f"{path.name}.new.npz")
    count, mean, scatter = moments.state()
    np.savez(temporary, work=work, count=count, mean=mean, scatter=scatter)
    temporary.replace(path)


def _resume(path: Path, work: str, width: int) -> frechet.Moments:
    """What an interrupted run of the same files and weights left, or nothing yet."""
    moments = frechet.Moments(width)
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["work"]) == work:
                moments.restore(int(stored["count"]), stored["mean"], stored["scatter"])
    except frechet.UNREADABLE:
        return moments
    return moments


def _parser() -> Parser:
    parser = Parser(
        prog="python -m sdxl statistics",
        description="FID's reference statistics (mu, sigma of Inception features) of an image "
        "folder, for quality.statistics=OUT.npz.",
    )
    parser.add_argument("images", type=Path, metavar="DIR", help="searched in all its folders")
    parser.add_argument("out", type=Path, metavar="OUT.npz")
    parser.add_argument(
        "--inception", metavar="FILE", default=settings.Full.inception,
        help="the network's weights (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    return parser
