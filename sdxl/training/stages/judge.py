"""The stage `judge`: the detector that counts, names and places solids."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn import functional

from sdxl.config.plugins import TrainingStage
from sdxl.config.schema.train import Training
from sdxl.model.scenes import captions, render, world
from sdxl.quality.scenes import judge
from sdxl.quality.scenes.encoder import GRID, Detector, resized
from sdxl.quality.scenes.networks import to_tensor
from sdxl.training import machine
from sdxl.training.data import scene_data
from sdxl.training.loop import Batch

_EVALUATED = 256
_NOISE = 0.06
_REBUILT = 3000
"""Pictures that are shown through the autoencoder, too."""
_COARSE = 0.25
"""Share of the pictures that are shown as those of half the size look."""


class Detecting(nn.Module):
    """Losses of the detector."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = Detector()

    def forward(
        self, pixels: Tensor, there: Tensor, cells: Tensor, places: Tensor
    ) -> dict[str, Tensor]:
        """pixels (B, 3, H, W); the rest as `targets` makes it."""
        out = self.detector(pixels)
        logits = out["there"][:, 0].float()
        missed = functional.binary_cross_entropy_with_logits(logits, there, reduction="none")
        likely = torch.where(there > 0, 1 - logits.sigmoid(), logits.sigmoid()).detach()
        losses = {"there": (missed * likely**2).sum() / max(1, len(cells))}
        row, y, x = cells[:, :3].T
        for number, name in enumerate(("colour", "shape", "size", "material")):
            at = out[name].float()[row, :, y, x]
            losses[name] = functional.cross_entropy(at, cells[:, 3 + number])
        at = out["place"].float()[row, :, y, x]
        losses["place"] = (at - places).abs().mean()
        part = machine.part(len(cells), pixels.device)
        losses = {name: value * part for name, value in losses.items()}
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}


class Stage:
    """Trains the detector on renders, plain, through the autoencoder, or coarse, with noise.

    It only judges, so unlike the other stages it may see every combination.
    """

    eval_count = _EVALUATED

    def __init__(self, settings: Training, seed: int) -> None:
        torch.manual_seed(seed)
        self.identity = scene_data.on_latents(settings.run)
        self.module = Detecting()
        self.count, self.size = settings.scenes, settings.size
        self.scenes = [world.any_scene(seed, number) for number in range(self.count)]
        self.pictures = scene_data.pictures(seed, self.count, settings.size, "any")
        self.rebuilt = scene_data.rebuilt(settings.run, self.pictures[:_REBUILT])

    def batch(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Pictures with noise, and where their solids are."""
        again = batch.draw("rebuilt", uniform=True).numpy() < 0.5
        # The rebuilt pictures are those of the first scenes.
        most = len(self.rebuilt) or self.count
        rows = np.where(again, batch.rows % most, batch.rows)
        shown = [self.rebuilt if a and len(self.rebuilt) else self.pictures for a in again]
        pixels = to_tensor(np.stack([source[r] for source, r in zip(shown, rows, strict=True)]))
        coarse = batch.draw("coarse", uniform=True) < _COARSE
        pixels[coarse] = resized(resized(pixels[coarse], self.size // 2), self.size)
        strength = _NOISE * batch.draw("strength", 1, 1, 1, uniform=True)
        pixels = pixels + strength * batch.draw("noise", *pixels.shape[1:])
        there, cells, places = targets([self.scenes[r] for r in rows])
        found = {"pixels": pixels, "there": there, "cells": cells, "places": places}
        return {name: value.to(device) for name, value in found.items()}

    def evaluate(self, device: torch.device) -> tuple[dict[str, float], Any]:
        """Accuracy on rendered scenes with held-out combinations: what the judge itself misses."""
        wanted = [world.held_out_scene(1, n) for n in range(_EVALUATED)]
        texts = [captions.describe(s, random.Random(n)) for n, s in enumerate(wanted)]
        found = self.module.detector.find(to_tensor(render.render(wanted, self.size)).to(device))
        return judge.accuracy(texts, found), None

    def export(self, folder: Path) -> None:
        """The detector alone."""
        save_model(self.module.detector, str(folder / "detector.safetensors"))


def targets(scenes: list[world.Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """Occupied cells (B, 16, 16); (N, 7) row, y, x and classes; (N, 2) places on the table."""
    there = torch.zeros(len(scenes), GRID, GRID)
    cells, places = [], []
    for row, scene in enumerate(scenes):
        for s in scene.solids:
            across, down, _ = world.disc(s.x, s.y, s.size)
            x, y = (min(GRID - 1, max(0, int(v * GRID))) for v in (across, down))
            there[row, y, x] = 1
            kinds = (
                world.COLOURS.index(s.colour),
                world.SHAPES.index(s.shape),
                world.SIZES.index(s.size),
                world.MATERIALS.index(s.material),
            )
            cells.append([row, y, x, *kinds])
            places.append([s.x, s.y])
    return there, torch.tensor(cells), torch.tensor(places)


STAGE = TrainingStage(lambda config: Stage(config.train, config.seed), scene_data.folder_of)
