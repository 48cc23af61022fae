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
from sdxl.core import disk, store
from sdxl.core.errors import UserError
from sdxl.core.progress import Progress
from sdxl.core.types import Embeddings
from sdxl.model.architecture import SCHEDULER
from sdxl.model.components import Source, torch_device
from sdxl.model.networks import predict
from sdxl.model.sources import open_source
from sdxl.training.data import encoded, scene_data
from sdxl.training.data.embed import text_encoders, time_ids

KIND = "trajectories"
PIECE = 128
"""Captions of one artifact: what a killed preparation can lose."""
_BATCH = 32
_ROUNDING = 0.01
"""Share by which a leap drawn again may differ, on another processor, too."""


class Trajectories:
    """Captions' embeddings, and the teacher's latents at the stops; memory-mapped pieces.

    `stops` (N, S + 1, 4, h, w), in units of the scheduler's sigma; `hidden` (N, 77, D); `pooled`
    (N, P). sigmas (S + 1,), the last 0, and timesteps (S,) of the stops.
    """

    def __init__(
        self, folders: Sequence[Path], few: Any, keys: Sequence[str], schedule: dict[str, Any]
    ) -> None:
        self.sigmas, self.timesteps = few.sigmas.float(), few.timesteps.float()
        self.identity, self.schedule = content_key.key([*keys]), schedule
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
    """Where the schedule is not SDXL's own, of which keys say nothing."""
    from diffusers import EulerDiscreteScheduler

    usual: Any = EulerDiscreteScheduler(**SCHEDULER | {"timestep_spacing": "trailing"}).config
    made = scheduler_of(source, 1).config
    read = [name for name in usual if not name.startswith("_") and name != "steps_offset"]
    return {name: made[name] for name in read if made[name] != usual[name]}


def open_trajectories(config: TrainConfig) -> Trajectories:
    """The teacher's paths; drawn at the first use, kept in the store piece by piece."""
    settings, model = config.train, config.model
    assert isinstance(settings, Distill)
    source = open_source(model, config.seed)
    kept = {
        "weights": source.identity(), "seed": config.seed, "guidance": model.guidance,
        "negative": model.negative_prompt, "size": [model.height, model.width],
        "steps": [settings.student_steps, settings.teacher_steps],
    }  # fmt: skip
    texts, schedule = _texts(config), _schedule(source)
    teacher = _Teacher(config, source)
    folders, keys = [], []
    with Progress("the teacher draws") as progress:
        for first in range(0, len(texts), PIECE):
            piece = texts[first : first + PIECE]
            drawn = {**kept, "first": first, "texts": piece}
            keys.append(content_key.key(drawn))  # all of it, before keys told of the schedule
            key = content_key.key({**drawn, "schedule": schedule}) if schedule else keys[-1]
            folders.append(_piece(teacher, first, piece, (key, keys[-1])))
            progress.report({"phase": "captions", "done": first + len(piece),
                             "expected": len(texts)})  # fmt: skip
    few = scheduler_of(source, settings.student_steps)
    return Trajectories(folders, few, keys, schedule)


def _piece(teacher: _Teacher, first: int, texts: list[str], keys: tuple[str, str]) -> Path:
    """The paths of these captions under the first key, or those under the second that are alike."""
    key, older = keys
    found = store.find(KIND, older) if older != key else None

    def build(folder: Path) -> dict[str, Any]:
        if found and teacher.drew(found.path, first):
            for name in found.manifest.files:
                disk.link(found.path / name, folder / name)
        else:
            teacher.write(folder, first, texts)
        return {}

    told = {"model": teacher.config.model.name, "first": first}
    parents = [older] if found else []
    return store.get(KIND, key, build, settings=told, parents=parents).path


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
        self._load()
        none = [self.config.model.negative_prompt or ""]
        encoded.write_embeddings(folder, self._encoders, self.source.tokenizers(), texts, none)
        starts = range(0, len(texts), _BATCH)
        stops = [self._drawn(folder, first, slice(start, start + _BATCH)) for start in starts]
        np.save(folder / "stops.npy", np.concatenate(stops))

    def drew(self, folder: Path, first: int) -> bool:
        """Whether the first path kept in `folder` is this teacher's, up to rounding."""
        self._load()
        stored = np.load(folder / "stops.npy", mmap_mode="r")[:1]
        paths = [each.astype(np.float32) for each in (stored, self._drawn(folder, first, slice(1)))]
        kept, ours = (np.diff(path, axis=1, prepend=0) for path in paths)  # the start, then leaps
        apart, size = (np.square(each).mean(axis=(0, 2, 3, 4)) for each in (ours - kept, kept))
        return bool((apart <= _ROUNDING**2 * size).all())

    def _load(self) -> None:
        if self._unet is None:
            self._encoders = text_encoders(self.source, self.device)
            self._unet = self.source.component("unet", torch.float32, self.device)

    def _drawn(self, folder: Path, first: int, block: slice) -> np.ndarray:
        """The paths of a block of the captions whose embeddings lie in `folder`."""
        parts = ("hidden", "pooled", "none_hidden", "none_pooled")
        given = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in parts}
        hidden, pooled = (
            np.concatenate([np.repeat(given[f"none_{name}"], len(rows), axis=0), rows])
            for name, rows in (("hidden", given["hidden"][block]),
                               ("pooled", given["pooled"][block]))
        )  # fmt: skip
        start = first + (block.start or 0)
        numbers = range(start, start + len(hidden) // 2)
        return self._paths(numbers, self._moved(hidden), self._moved(pooled))

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
