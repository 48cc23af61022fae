"""The reference's pictures in the store, in blocks of prompts: a longer list makes what is missing.

`<store>/reference/<key>/pictures.npy` is uint8 (N, H, W, 3), memory-mapped where it is read.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdxl.config.content_key import key, keyed
from sdxl.config.schema import Config
from sdxl.core import store
from sdxl.core.progress import Report
from sdxl.core.types import Prompt
from sdxl.model import sources
from sdxl.model.components import Source
from sdxl.model.sampler import Sampler
from sdxl.quality.settings import reference_steps

KIND, FILE = "reference", "pictures.npy"
VERSION = 1
BLOCK = 16
"""Prompts of one artifact."""
BATCH = 4
"""Pictures drawn at a time, where that takes no minutes."""
SMALL = 256 * 256
PHASE = "reference pictures in fp32"
_DESIGN = ("model", "scheduler")
"""Groups of settings that change what a picture should be."""
_ELSEWHERE = ("name", "device", "path", "latents", "unet", "lora", "variant", "revision")
"""Settings of the model that its identity or the noise's stands for, or that change nothing."""


def settings_of(config: Config, source: Source) -> dict[str, Any]:
    """What the pictures depend on, the prompts apart."""
    design = {name: keyed(part) for name in _DESIGN if (part := getattr(config, name, None))}
    design["model"] = {n: v for n, v in design["model"].items() if n not in _ELSEWHERE}
    design["model"]["steps"] = reference_steps(config.quality, config.model)
    scheduler, latents = source.scheduler(), config.model.latents
    return {
        "version": VERSION,
        "dtype": "fp32",
        "weights": source.identity(),
        "latents": store.sha256(store.resolve(latents)) if latents else None,
        "model_scheduler": [
            type(scheduler).__name__,
            {n: v for n, v in scheduler.config.items() if not n.startswith("_")},
        ],
        "seed": config.seed,
        **design,
    }


def blocks(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """The prompts in pieces of one artifact each."""
    return [list(prompts[at : at + BLOCK]) for at in range(0, len(prompts), BLOCK)]


def key_of(settings: dict[str, Any], block: Sequence[Prompt]) -> str:
    """Content key of the pictures of exactly these prompts."""
    lines = "\n".join(f"{prompt.row}\t{prompt.text}" for prompt in block)
    return key(settings, hashlib.sha256(lines.encode()).hexdigest())


def missing(config: Config, prompts: Sequence[Prompt]) -> int:
    """Pictures that have to be drawn first; downloads no weights to find that out."""
    settings = settings_of(config, sources.shapes_source(config.model, config.seed))
    return sum(len(b) for b in blocks(prompts) if not store.find(KIND, key_of(settings, b)))


def get(
    config: Config, prompts: Sequence[Prompt], opened: Callable[[], Sampler], report: Report
) -> dict[str, Any]:
    """The pictures, found or drawn now: their `key`, folders of the `blocks`, how many were `made`.

    `opened` loads the model that draws, if there is anything to draw. Of several processes one
    draws a block, the others wait for it; a block that is not whole is not there.
    """
    settings = settings_of(config, sources.open_source(config.model, config.seed))
    keys = {key_of(settings, block): block for block in blocks(prompts)}
    wanted = sum(len(block) for each, block in keys.items() if not store.find(KIND, each))
    painter = _Painter(opened, wanted, report)
    artifacts = [
        store.get(
            KIND, each, functools.partial(painter.build, block),
            settings={**settings, "prompts": [[prompt.row, prompt.text] for prompt in block]},
            allow=config.build, otherwise="quality.reference=null",
        )
        for each, block in keys.items()
    ]  # fmt: skip
    return {"key": key(settings), "blocks": [str(a.path) for a in artifacts], "made": painter.done}


class _Painter:
    """Draws blocks, one picture after the other where a picture takes minutes."""

    def __init__(self, opened: Callable[[], Sampler], wanted: int, report: Report) -> None:
        self.opened, self.wanted, self.report = opened, wanted, report
        self.sampler: Sampler | None = None
        self.done = 0

    def build(self, block: Sequence[Prompt], folder: Path) -> dict[str, Any]:
        """The artifact of one block, in `folder`."""
        if self.sampler is None:
            self.report({"phase": "loading the model in fp32 for the reference pictures"})
            self.sampler = self.opened()
        small = self.sampler.model.height * self.sampler.model.width <= SMALL
        size = BATCH if small or torch.cuda.is_available() else 1
        pieces = [block[at : at + size] for at in range(0, len(block), size)]
        with _exact():
            drawn = [self._draw([prompt.index for prompt in piece]) for piece in pieces]
        np.save(folder / FILE, np.concatenate(drawn))
        device = self.sampler.describe().get("device")
        return {"versions": {"torch": torch.__version__}, "device": {"name": device}}

    def _draw(self, indices: Sequence[int]) -> np.ndarray:
        assert self.sampler
        latents = self.sampler.latents(indices, self._step)  # the loop that all backends share
        pictures: np.ndarray = self.sampler.stages.decode(latents)
        self.done += len(indices)
        return pictures

    def _step(self, number: int, _timestep: float) -> None:
        assert self.sampler
        text = f"{self.done}/{self.wanted} pictures, step {number + 1} of the next"
        self.report({"phase": PHASE, "text": text, "done": self.done, "expected": self.wanted})


@contextmanager
def _exact() -> Iterator[None]:
    """fp32 as it is written: no product in TF32, which is what CUDA's convolutions have."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def read(folders: Sequence[str], prompts: Sequence[Prompt]) -> dict[int, np.ndarray]:
    """Pictures by the prompts' positions, memory-mapped."""
    found: dict[int, np.ndarray] = {}
    for folder, block in zip(folders, blocks(prompts), strict=True):
        pictures = np.load(Path(folder) / FILE, mmap_mode="r", allow_pickle=False)
        found |= {prompt.index: each for prompt, each in zip(block, pictures, strict=True)}
    return found
