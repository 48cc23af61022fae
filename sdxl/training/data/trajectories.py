"""What a teacher draws: its guided path from noise to latents, kept at the student's stops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdxl.config import content_key
from sdxl.config.schema.train import Distill, TrainConfig
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.progress import Progress
from sdxl.core.types import Embeddings
from sdxl.model.architecture import SCHEDULER
from sdxl.model.components import Source, torch_device
from sdxl.model.networks import predict
from sdxl.model.sources import open_source
from sdxl.training.data import encoded, scene_data
from sdxl.training.data.embed import text_encoders, time_ids

PIECE = 128
"""Captions of one artifact: what a killed preparation can lose."""
_BATCH = 32


class Trajectories:
    """Captions' embeddings, and the teacher's latents at the stops; memory-mapped pieces.

    `stops` (N, S + 1, 4, h, w), in units of the scheduler's sigma; `hidden` (N, 77, D); `pooled`
    (N, P). sigmas (S + 1,), the last 0, and timesteps (S,) of the stops.
    """

    def __init__(self, folders: Sequence[Path], few: Any) -> None:
        self.sigmas, self.timesteps = few.sigmas.float(), few.timesteps.float()
        self.identity = content_key.key([folder.name for folder in folders])
        self.pieces = {
            name: [np.load(folder / f"{name}.npy", mmap_mode="r") for folder in folders]
            for name in ("stops", "hidden", "pooled")
        }
        self.count = sum(map(len, self.pieces["stops"]))

    def rows(self, name: str, rows: np.ndarray) -> Tensor:
        """The rows of `stops`, `hidden` or `pooled`, float32."""
        pieces = self.pieces[name]
        found = np.stack([pieces[row // PIECE][row % PIECE] for row in rows])
        return torch.from_numpy(found.astype(np.float32))


def scheduler_of(source: Source, steps: int) -> Any:
    """The model's schedule as Euler steps that begin at the very last timestep (trailing)."""
    from diffusers import EulerDiscreteScheduler

    own = source.scheduler().config
    scheduler: Any = EulerDiscreteScheduler.from_config(own, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    return scheduler


def _schedule(source: Source) -> dict[str, Any]:
    """Where the schedule is not SDXL's own: older keys say nothing of it."""
    from diffusers import EulerDiscreteScheduler

    usual: Any = EulerDiscreteScheduler(**SCHEDULER | {"timestep_spacing": "trailing"}).config
    made = scheduler_of(source, 1).config
    settings = [name for name in usual if not name.startswith("_")]
    other = {name: made[name] for name in settings if made[name] != usual[name]}
    return {"schedule": other} if other else {}


def open_trajectories(config: TrainConfig) -> Trajectories:
    """The teacher's paths; drawn at the first use, kept in the store piece by piece."""
    settings, model = config.train, config.model
    assert isinstance(settings, Distill)
    source = open_source(model, config.seed)
    kept = {
        "weights": source.identity(), "seed": config.seed, "guidance": model.guidance,
        "negative": model.negative_prompt, "size": [model.height, model.width],
        "steps": [settings.student_steps, settings.teacher_steps],
        **_schedule(source),
    }  # fmt: skip
    texts = _texts(config)
    teacher = _Teacher(config, source)
    folders = []
    with Progress("the teacher draws") as progress:
        for first in range(0, len(texts), PIECE):
            piece = texts[first : first + PIECE]

            def build(folder: Path, first: int = first, piece: list[str] = piece) -> dict[str, Any]:
                teacher.write(folder, first, piece)
                return {}

            key = content_key.key({**kept, "first": first, "texts": piece})
            told = {"model": model.name, "first": first}
            folders.append(store.get("trajectories", key, build, settings=told).path)
            progress.report({"phase": "captions", "done": first + len(piece),
                             "expected": len(texts)})  # fmt: skip
    return Trajectories(folders, scheduler_of(source, settings.student_steps))


def _texts(config: TrainConfig) -> list[str]:
    """The captions: of rendered scenes, or all lines of a file."""
    settings = config.train
    assert isinstance(settings, Distill)
    if settings.captions is None:
        return [caption.text for caption in scene_data.wordings(config.seed, settings.scenes)]
    file = store.resolve(settings.captions)
    try:
        lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "`train.captions` cannot be read", f"{file}: {error}", "a text file, a caption a line",
            "train.captions=FILE.txt",
        ) from error  # fmt: skip
    return lines


class _Teacher:
    """The model as it is, many steps, with guidance; loaded when the first piece is missing."""

    def __init__(self, config: TrainConfig, source: Source) -> None:
        self.config, self.source = config, source
        self.device = torch_device(config.model.device)
        self._unet: Any = None
        self._encoders: Any = None

    def write(self, folder: Path, first: int, texts: list[str]) -> None:
        """`stops.npy`, `hidden.npy` and `pooled.npy` of the captions from number `first` on."""
        if self._unet is None:
            self._encoders = text_encoders(self.source, self.device)
            self._unet = self.source.component("unet", torch.float32, self.device)
        none = [self.config.model.negative_prompt or ""]
        encoded.write_embeddings(folder, self._encoders, self.source.tokenizers(), texts, none)
        parts = ("hidden", "pooled", "none_hidden", "none_pooled")
        given = {name: np.load(folder / f"{name}.npy") for name in parts}
        stops = []
        for start in range(0, len(texts), _BATCH):
            block = slice(start, start + _BATCH)
            hidden, pooled = (
                np.concatenate([np.repeat(given[f"none_{name}"], len(rows), axis=0), rows])
                for name, rows in (("hidden", given["hidden"][block]),
                                   ("pooled", given["pooled"][block]))
            )  # fmt: skip
            numbers = range(first + start, first + start + len(hidden) // 2)
            stops.append(self._paths(numbers, self._moved(hidden), self._moved(pooled)))
        np.save(folder / "stops.npy", np.concatenate(stops))

    def _moved(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.device)

    @torch.inference_mode()
    def _paths(self, numbers: range, hidden: Tensor, pooled: Tensor) -> np.ndarray:
        """float16 (B, S + 1, 4, h, w); hidden and pooled have the negative rows first."""
        settings, model = self.config.train, self.config.model
        assert isinstance(settings, Distill)
        scheduler = scheduler_of(self.source, settings.teacher_steps)
        every = settings.teacher_steps // settings.student_steps
        shape = (4, model.height // 8, model.width // 8)
        noise = torch.stack([noise_of(self.config.seed, number, shape) for number in numbers])
        latents = noise.to(self.device) * scheduler.init_noise_sigma
        sizes = time_ids(len(hidden), model.height, model.width).to(self.device)
        told = Embeddings(hidden, pooled, sizes)
        stops = [latents]
        for number, timestep in enumerate(scheduler.timesteps):
            doubled = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
            predicted = predict(self._unet, doubled, timestep, told)
            negative, positive = predicted.chunk(2)
            guided = negative + model.guidance * (positive - negative)
            latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
            if (number + 1) % every == 0:
                stops.append(latents)
        found: np.ndarray = torch.stack(stops, dim=1).half().cpu().numpy()
        return found


def noise_of(seed: int, number: int, shape: tuple[int, ...]) -> Tensor:
    """The noise that a caption's path starts from, unit variance."""
    generator = torch.Generator().manual_seed((seed << 32) + number)
    return torch.randn(shape, generator=generator)
