"""The one denoise loop: scheduler, guidance and noise, the same for every backend.

Whatever differs between two backends' pictures is therefore their numerics, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sdxl.config import loras, schema, shortcuts
from sdxl.config.schema import Noise, Rules
from sdxl.core import store
from sdxl.core.errors import StageError, UserError
from sdxl.core.types import Embeddings, Order, Prompt, Stages, TokenIds
from sdxl.model import guidance, schedulers
from sdxl.model import prompts as prompting
from sdxl.model.components import Source, notes_of
from sdxl.model.latents import SHAPE as MLPERF_SHAPE
from sdxl.model.latents import mlperf as mlperf_latent
from sdxl.model.parts import Kept, positive

LATENT_SCALE = 8
"""Pixels per latent, in each direction, of every SDXL VAE."""

OnStep = Callable[[int, float], None]
"""Called before each UNet call with the step's number and its timestep."""


class Sampler:
    """A `Generator` on a backend's `Stages`."""

    def __init__(
        self, stages: Stages, source: Source, config: schema.Config, prompts: Sequence[Prompt]
    ) -> None:
        model = config.model
        self.stages, self.model, self.seed = stages, model, config.seed
        self.schedule = schedulers.chosen(config, source)
        self.scheduler = self.schedule.scheduler
        self.warnings = schedulers.doubts(config, source, self.scheduler)
        self.notes = notes_of(source)
        self.tokenizers = source.tokenizers()
        self.long = prompting.truncated(prompts, self.tokenizers)
        self.cut: list[int] = []
        self.ids = self._tokens([prompt.text for prompt in prompts])
        self.negative = self._tokens([model.negative_prompt or ""])
        self.orders: Sequence[Order] = ()  # in place of the prompts
        self.zeros = guidance.zero_negative(model, source)
        self.guided = guidance.rows_per_image(model, source) == 2
        self.steps = guidance.steps_of(config.shortcut, model, source, self.schedule.calls)
        """What each UNet call computes."""
        self.short, self.parted = config.shortcut.name != "none", shortcuts.parted(self.steps)
        width = guidance.width(source)
        self.embedded = guidance.embedding(model.guidance, width) if width else None
        self.fused = loras.describe(model, config.quant.format)
        # Closed division: nothing is cached across queries, not even the negative prompt.
        self.keep_negative = config.rules is Rules.open
        self._kept: Embeddings | None = None
        self.rows = [prompt.row for prompt in prompts]
        self.noises = Noises(model, config.seed)

    def generate(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 images (B, H, W, 3) of the prompts at these positions."""
        return self.stages.decode(self.latents(indices))

    def draw(self, orders: Sequence[Order]) -> np.ndarray:
        """uint8 images (B, H, W, 3) of orders, which take the place of the prompts.

        `seed` is that of the configuration's prompt in row 0: the same seed, the same picture.
        """
        self.orders, texts = orders, [order.text for order in orders]
        self.rows = [order.seed - self.seed for order in orders]
        asked = [Prompt(place, text, place) for place, text in enumerate(texts)]
        self.cut = [each.index for each in prompting.truncated(asked, self.tokenizers)]
        self.ids = self._tokens(texts)
        return self.generate(range(len(orders)))

    def encode_ahead(self) -> None:
        """Have every prompt encoded alone, for stages that remember what they encoded."""
        with torch.inference_mode():
            for index in range(len(self.rows)):
                self._embeddings(np.asarray([index]))

    def latents(self, indices: Sequence[int], on_step: OnStep | None = None) -> torch.Tensor:
        """Denoised latents (B, 4, h, w), not yet decoded.

        Raises `StageError` if the UNet produced NaN or Inf.
        """
        with torch.inference_mode():
            embeddings = self._embeddings(np.asarray(indices))
            noise = self._noise(indices).to(embeddings.hidden.device, embeddings.hidden.dtype)
            seeds = [schedulers.seed_of(self.seed, self.rows[i]) for i in indices]
            whole_loop = getattr(self.stages, "denoise", None)
            if whole_loop and on_step is None:
                noisy = [seeds] if self.schedule.noisy else []
                latents = whole_loop(embeddings, noise, *noisy)
            else:
                latents = self._loop(embeddings, noise, seeds, on_step)
            if not torch.isfinite(latents).all():
                raise StageError(
                    "the UNet produced NaN or Inf",
                    str(latents.dtype).removeprefix("torch."),
                    "finite latents",
                    "precision=fp32 or precision=bf16",
                )
        return latents

    def describe(self) -> dict[str, Any]:
        """The backend's facts and the sampler's."""
        facts = self.stages.describe()
        doubts = [*self.warnings, *prompting.doubts(self.long, len(self.rows))]
        return {
            **facts,
            "scheduler": type(self.scheduler).__name__,
            "schedule": self.schedule.describe(),
            "unet_rows_per_image": 2 if self.guided else 1,
            **({"shortcut": shortcuts.counts(self.steps)} if self.short else {}),
            **self.fused,
            **({"weights": self.notes} if self.notes else {}),
            "prompts_truncated": len(self.long),
            "warnings": [*facts.get("warnings", []), *doubts],
        }

    def close(self) -> None:
        """Close the backend."""
        self.stages.close()

    def _loop(
        self,
        embeddings: Embeddings,
        noise: torch.Tensor,
        seeds: Sequence[int],
        on_step: OnStep | None,
    ) -> torch.Tensor:
        walk = self.schedule.begin(noise.device, seeds)
        latents = noise * walk.start
        kept, conditional = Kept(), positive(embeddings, len(noise))
        for number, (step, timestep) in enumerate(zip(self.steps, walk.timesteps, strict=True)):
            if on_step:
                on_step(number, float(timestep))
            doubled = torch.cat([latents, latents]) if step.guided else latents
            sample = walk.scaled(doubled, timestep)
            given = sample, timestep, embeddings if step.guided else conditional
            if self.parted:
                predicted = self.stages.part(step, *given, kept)  # type: ignore[attr-defined]
            else:
                predicted = self.stages.unet(*given)
            if step.guided:
                without, with_prompt = predicted.chunk(2)
                predicted = without + self.model.guidance * (with_prompt - without)
            latents = walk.step(predicted, timestep, latents)
        return latents

    def _embeddings(self, index: np.ndarray) -> Embeddings:
        """Conditioning of a batch: negative rows first, as diffusers orders them."""
        count = len(index)
        positive = self.ids.rows(index)
        if not self.guided:
            found = self.stages.encode(positive)
        elif any(order.negative is not None for order in self.orders):
            found = _join(self._negatives(), self.stages.encode(positive))
        elif self.zeros:
            found = self.stages.encode(positive)
            found = _join(_zeros(found), found)
        elif self.keep_negative:
            if self._kept is None:
                self._kept = self.stages.encode(self.negative)
            found = _join(_repeat(self._kept, count), self.stages.encode(positive))
        else:
            both = TokenIds(
                *(
                    np.concatenate([np.repeat(negative, count, axis=0), rows])
                    for negative, rows in (
                        (self.negative.first, positive.first),
                        (self.negative.second, positive.second),
                    )
                )
            )
            found = self.stages.encode(both)
        size = [self.model.height, self.model.width]
        time_ids = torch.tensor(
            [*size, 0, 0, *size], dtype=found.hidden.dtype, device=found.hidden.device
        )
        rows, scale = len(found.hidden), None
        if self.embedded is not None:
            scale = self.embedded.to(found.hidden.device, found.hidden.dtype).repeat(rows, 1)
        return Embeddings(found.hidden, found.pooled, time_ids.repeat(rows, 1), scale)

    def _negatives(self) -> Embeddings:
        """Rows that guidance leads away from, where some orders have words of their own.

        As many as the orders: backends prepare themselves for sizes of batches.
        """
        usual = self.model.negative_prompt or ""
        words = [usual if order.negative is None else order.negative for order in self.orders]
        found = self.stages.encode(self._tokens(words))
        if self.zeros:
            plain = [place for place, order in enumerate(self.orders) if order.negative is None]
            found = Embeddings(found.hidden.clone(), found.pooled.clone(), None)
            found.hidden[plain], found.pooled[plain] = 0, 0
        return found

    def _tokens(self, texts: Sequence[str]) -> TokenIds:
        return prompting.tokenize(texts, self.tokenizers)

    def _noise(self, indices: Sequence[int]) -> torch.Tensor:
        rows = [self.rows[place] for place in indices]
        if not self.orders:
            return self.noises.of(rows)
        own = (
            self.noises.of([row], self.orders[i].shared)
            for i, row in zip(indices, rows, strict=True)
        )
        return torch.cat([*own])


class Noises:
    """What pictures start from."""

    def __init__(self, model: schema.Model, seed: int) -> None:
        self.shape = (4, model.height // LATENT_SCALE, model.width // LATENT_SCALE)
        self.shared, self.seed = _shared_noise(model, self.shape, seed), seed

    def of(self, rows: Sequence[int], shares: bool = True) -> torch.Tensor:
        """Initial noise (B, 4, h, w) of these rows of the dataset: unit variance, fp32, CPU.

        shares: the latent of all rows, where the setting has one.
        """
        if self.shared is not None and shares:
            return self.shared.expand(len(rows), -1, -1, -1)
        return torch.cat([_draw(self.shape, self.seed + 1 + row) for row in rows])


def _join(first: Embeddings, second: Embeddings) -> Embeddings:
    return Embeddings(
        torch.cat([first.hidden, second.hidden]), torch.cat([first.pooled, second.pooled]), None
    )


def _repeat(one: Embeddings, count: int) -> Embeddings:
    return Embeddings(one.hidden.repeat(count, 1, 1), one.pooled.repeat(count, 1), None)


def _zeros(one: Embeddings) -> Embeddings:
    return Embeddings(torch.zeros_like(one.hidden), torch.zeros_like(one.pooled), None)


def _draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn((1, *shape), generator=torch.Generator("cpu").manual_seed(seed))


def _shared_noise(model: schema.Model, shape: tuple[int, ...], seed: int) -> torch.Tensor | None:
    """The latent that all prompts start from, or None if each prompt has its own.

    At 1024 x 1024 with seed 0 it is MLPerf's published latent to the bit.
    """
    if model.noise is Noise.per_prompt:
        return None
    if not model.latents:
        if (1, *shape) == MLPERF_SHAPE:
            return torch.from_numpy(mlperf_latent(seed))
        return _draw(shape, seed)
    path = store.resolve(model.latents)
    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
            raise ValueError(f"{path} does not hold one array of floats")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            "`model.latents` cannot be read",
            str(error),
            f"a .npy of float32, shape {(1, *shape)}",
            "python -m sdxl download latents",
        ) from error
    if found.shape != (1, *shape) or not np.isfinite(found).all():
        raise UserError(
            f"{path} does not fit model={model.name}",
            f"shape {found.shape}, {np.count_nonzero(~np.isfinite(found))} not finite",
            f"finite numbers of shape {(1, *shape)}",
            "model.latents=null",
        )
    return torch.from_numpy(found.astype(np.float32))
