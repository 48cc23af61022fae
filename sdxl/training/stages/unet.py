"""The stage `unet`: the UNet and both text encoders together, on latents of the run's VAE.

Three things are more than SDXL's training of a UNet alone. The text encoders learn from the
denoising, because contrastive training leaves which colour is whose, and what stands where, too
faint in the states of single tokens. Noisy timesteps, where the places of solids are decided, weigh
more: their error is small beside the textures' and would hardly be heard. Scenes of two solids come
twice as often as single ones, and of three seldom. Captions are worded anew each time; a share of
the rows is unconditional: half of them the empty caption, half MLPerf's negative prompt, so that
guidance works against either.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdxl.config import content_key
from sdxl.config.plugins import TrainingStage
from sdxl.config.rules_model import MLPERF_NEGATIVE_PROMPT
from sdxl.config.schema.train import Noising
from sdxl.core import store
from sdxl.model import architecture
from sdxl.model.scenes import captions, world
from sdxl.quality.scenes import judge
from sdxl.quality.scenes.networks import to_tensor
from sdxl.training.data import encoded, scene_data
from sdxl.training.loop import Batch
from sdxl.training.stages.denoising import Denoiser, Told, unheard

GUIDANCE = 4.0
"""As the bundled model is run with (`conf/model/scenes.yaml`)."""
LAYOUT = 0.2
"""Signal-to-noise ratio below which timesteps weigh more, as its inverse root."""
POWER = 0.5
"""Timesteps are even draws from 0 to 1, to this power: more of the noisy ones."""
REPEATS = {1: 4, 2: 8, 3: 1}
"""How often an epoch shows a scene of so many solids."""
_EVALUATED = 32


class Stage:
    """Trains a UNet from random weights, and the text encoders of the stage `clip`."""

    eval_count = _EVALUATED

    def __init__(self, settings: Noising, seed: int) -> None:
        torch.manual_seed(seed)
        self.settings = settings
        self.run, self.size, self.seed = settings.run, settings.size, seed
        self.tokenizers = scene_data.tokenizers(self.run)
        self.module = self._network()
        self.identity = scene_data.on_latents(self.run)
        self.latents = np.load(
            latents(self.run, seed, settings.scenes, self.size) / "latents.npy", mmap_mode="r"
        )
        self.scenes = [world.training_scene(seed, n) for n in range(settings.scenes)]
        self.rows = np.repeat(
            np.arange(len(self.scenes)), [REPEATS[len(scene.solids)] for scene in self.scenes]
        )
        self.count = len(self.rows)

    def _network(self) -> Told:
        from diffusers import UNet2DConditionModel

        unet: Any = UNet2DConditionModel(**architecture.SCENES["unet"])
        first, second = scene_data.text_encoders(self.run)
        for part in (first, second):
            part.requires_grad_(True)
        for unused in unheard(first):
            unused.requires_grad_(False)
        return Told(Denoiser(unet, LAYOUT, self.settings.weighting), first, second).train()

    def batch(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Latents, noise, timesteps and token ids, some of them of the unconditional texts."""
        rows = self.rows[batch.rows]
        chance = batch.draw("dropped", uniform=True).tolist()
        texts = [self._text(batch, *place) for place in enumerate(zip(rows, chance, strict=True))]
        first, second = scene_data.token_ids(texts, self.tokenizers)
        latents = torch.from_numpy(np.ascontiguousarray(self.latents[rows]))
        steps = architecture.SCHEDULER["num_train_timesteps"]
        sizes = [self.size, self.size, 0, 0, self.size, self.size]
        found = {
            "latents": latents,
            "noise": batch.draw("noise", *latents.shape[1:]),
            "timestep": (batch.draw("timestep", uniform=True) ** POWER * steps).long(),
            "time_ids": torch.tensor([sizes] * len(rows), dtype=torch.float32),
            "first": torch.from_numpy(first),
            "second": torch.from_numpy(second),
        }
        return {name: value.to(device) for name, value in found.items()}

    def _text(self, batch: Batch, place: int, drawn: tuple[int, float]) -> str:
        row, chance = drawn
        dropped = self.settings.dropped
        if chance < dropped:
            return scene_data.UNCONDITIONAL[int(chance >= dropped / 2)]
        words = f"words/{self.seed}/{batch.step}/{batch.share.start + place}"
        return captions.describe(self.scenes[row], random.Random(words)).text

    @torch.no_grad()
    def evaluate(self, device: torch.device) -> tuple[dict[str, float], Any]:
        """Pictures of held-out captions, judged by the run's detector, the first sixteen shown."""
        wanted = captions.held_out(_EVALUATED)
        pictures = self._sample([c.text for c in wanted], device)
        shown = pictures[:16].reshape(2, 8, *pictures.shape[1:])
        sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in shown])
        detector = scene_data.detector(self.run)
        if detector is None:
            return {}, sheet
        found = detector.to(device).find(to_tensor(pictures).to(device))
        return judge.accuracy(wanted, found), sheet

    def _sample(self, texts: list[str], device: torch.device) -> np.ndarray:
        from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

        module = self.module
        pipe: Any = StableDiffusionXLPipeline(
            scene_data.autoencoder(self.run), module.first, module.second, *self.tokenizers,
            module.unet, EulerDiscreteScheduler(**architecture.SCHEDULER), add_watermarker=False,
        )  # fmt: skip
        pipe.to(device)
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        made = pipe(
            texts, height=self.size, width=self.size, num_inference_steps=20,
            guidance_scale=GUIDANCE, negative_prompt=[MLPERF_NEGATIVE_PROMPT] * len(texts),
            generator=generator, output_type="np",
        ).images  # fmt: skip
        found: np.ndarray = (made * 255).round().astype(np.uint8)
        return found

    def export(self, folder: Path) -> None:
        """UNet and text encoders in the folders of a pipeline."""
        module: Any = self.module
        module.unet.save_pretrained(folder / "unet")
        module.first.save_pretrained(folder / "text_encoder")
        module.second.save_pretrained(folder / "text_encoder_2")


def latents(run: str, seed: int, count: int, size: int) -> Path:
    """The folder with `latents.npy` of the training scenes, by the run's VAE."""
    vae = scene_data.exported(run, "vae")
    settings = {
        "seed": seed, "count": count, "size": size, "look": world.LOOK,
        "vae": store.fingerprint(vae),
    }  # fmt: skip

    def build(folder: Path) -> dict[str, Any]:
        pictures = scene_data.pictures(seed, count, size)
        encoded.write_latents(folder, scene_data.autoencoder(run), pictures)
        return {}

    return store.get("latents", content_key.key(settings), build, settings=settings).path


STAGE = TrainingStage(lambda config: Stage(config.train, config.seed), scene_data.folder_of)
