"""The stage `unet`: noise in latents, told by captions, as SDXL is trained (epsilon prediction).

Latents and embeddings of the training set are made once and memory-mapped. A share of the rows is
unconditional: half of them the empty caption, half MLPerf's negative prompt, so that guidance works
against either. Losses are weighted by min-SNR (Hang et al. 2023, arXiv:2303.09556), gamma 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from sdxl import architecture, config, networks, prompts, store
from sdxl.scenes import captions, judge
from sdxl.schema_train import Training
from sdxl.training import scene_data
from sdxl.training.loop import Batch
from sdxl.training.vae import tensor

DROPPED = 0.1
"""Share of the rows without caption."""
GAMMA = 5.0
GUIDANCE = 4.0
"""As the bundled model is run with (`conf/model/scenes.yaml`)."""
_BLOCK = 250
_EVALUATED = 32


def noise_schedule() -> Tensor:
    """Products of alphas of SDXL's 1000 steps."""
    scheduler = architecture.SCHEDULER
    roots = scheduler["beta_start"] ** 0.5, scheduler["beta_end"] ** 0.5
    betas = torch.linspace(*roots, scheduler["num_train_timesteps"]) ** 2
    return torch.cumprod(1 - betas, 0)


class Denoiser(nn.Module):
    """Weighted error of the noise that the UNet predicts.

    layout: signal-to-noise ratio below which timesteps weigh more, as its inverse root; 0: none.
    """

    def __init__(self, unet: nn.Module, layout: float = 0.0) -> None:
        super().__init__()
        self.unet, self.layout = unet, layout
        self.register_buffer("alphas", noise_schedule(), persistent=False)

    def forward(
        self, latents: Tensor, noise: Tensor, timestep: Tensor, hidden: Tensor, pooled: Tensor,
        time_ids: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """latents, noise (B, 4, h, w); timestep (B,); hidden (B, 77, D); pooled (B, P)."""
        alphas: Any = self.alphas
        alpha = alphas[timestep][:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        added = {"text_embeds": pooled, "time_ids": time_ids}
        predicted = self.unet(
            noisy, timestep, encoder_hidden_states=hidden, added_cond_kwargs=added,
            return_dict=False,
        )[0]  # fmt: skip
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        ratio = (alpha / (1 - alpha)).flatten()
        weight = ratio.clamp(max=GAMMA) / ratio * (1 + self.layout / ratio).sqrt()
        return {"loss": (weight * error).mean(), "error": error.mean()}


class Stage:
    """Trains the UNet on latents and embeddings of the run's own VAE and text encoders."""

    identity = scene_data.IDENTITY
    power = 1.0
    """Timesteps are even draws from 0 to 1, to this power: below one, more of the noisy ones."""

    def __init__(self, settings: Training, seed: int) -> None:
        torch.manual_seed(seed)
        self.run, self.size, self.count = settings.run, settings.size, settings.scenes
        self.module = self.network()
        folder = training_set(settings.run, seed, settings.scenes, settings.size)
        names = ("latents", "hidden", "pooled", "none_hidden", "none_pooled")
        self.data = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}

    def network(self) -> nn.Module:
        """What is trained, as it is before the first step."""
        from diffusers import UNet2DConditionModel

        unet: Any = UNet2DConditionModel(**architecture.SCENES["unet"])
        return Denoiser(unet)

    def batch(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Latents, noise, timesteps and embeddings, some of them unconditional."""
        data = self.data
        hidden = torch.from_numpy(data["hidden"][batch.rows].astype(np.float32))
        pooled = torch.from_numpy(data["pooled"][batch.rows].astype(np.float32))
        chance = batch.draw("dropped", uniform=True)
        for kind in range(2):
            dropped = (chance >= kind * DROPPED / 2) & (chance < (kind + 1) * DROPPED / 2)
            hidden[dropped] = torch.from_numpy(data["none_hidden"][kind].astype(np.float32))
            pooled[dropped] = torch.from_numpy(data["none_pooled"][kind].astype(np.float32))
        found = self.noised(batch, batch.rows) | {"hidden": hidden, "pooled": pooled}
        return {name: value.to(device) for name, value in found.items()}

    def noised(self, batch: Batch, rows: np.ndarray) -> dict[str, Tensor]:
        """Latents of these rows, and the step's noise and timesteps for them."""
        latents = torch.from_numpy(np.ascontiguousarray(self.data["latents"][rows]))
        steps = architecture.SCHEDULER["num_train_timesteps"]
        sizes = [self.size, self.size, 0, 0, self.size, self.size]
        return {
            "latents": latents,
            "noise": batch.draw("noise", *latents.shape[1:]),
            "timestep": (batch.draw("timestep", uniform=True) ** self.power * steps).long(),
            "time_ids": torch.tensor([sizes] * len(latents), dtype=torch.float32),
        }

    def encoders(self) -> tuple[Any, Any]:
        """The text encoders that pictures are made with."""
        return scene_data.text_encoders(self.run)

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
        found = detector.to(device).find(tensor(pictures).to(device))
        return judge.accuracy(wanted, found), sheet

    def _sample(self, texts: list[str], device: torch.device) -> np.ndarray:
        from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

        first, second = self.encoders()
        vae = scene_data.autoencoder(self.run)
        one, other = scene_data.tokenizers(self.run)
        module: Any = self.module
        pipe: Any = StableDiffusionXLPipeline(
            vae, first, second, one, other, module.unet,
            EulerDiscreteScheduler(**architecture.SCHEDULER), add_watermarker=False,
        )  # fmt: skip
        pipe.to(device)
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        made = pipe(
            texts, height=self.size, width=self.size, num_inference_steps=20,
            guidance_scale=GUIDANCE, negative_prompt=[scene_data.NEGATIVE] * len(texts),
            generator=generator, output_type="np",
        ).images  # fmt: skip
        found: np.ndarray = (made * 255).round().astype(np.uint8)
        return found

    def export(self, folder: Path) -> None:
        """The UNet in diffusers' form."""
        module: Any = self.module
        module.unet.save_pretrained(folder)


def training_set(run: str, seed: int, count: int, size: int) -> Path:
    """Latents (N, 4, h, w) of unit variance; hidden (N, 77, D) and pooled (N, P) states in fp16."""
    folders = [scene_data.stage_folder(run, stage) / "model" for stage in ("vae", "clip")]
    settings = {
        "seed": seed, "count": count, "size": size, "look": scene_data.LOOK,
        "networks": [store.fingerprint(folder) for folder in folders],
    }  # fmt: skip

    def build(folder: Path) -> dict[str, Any]:
        scene_data.exported(run, "vae")
        vae, encoders = scene_data.autoencoder(run), scene_data.text_encoders(run)
        write_latents(folder, vae, scene_data.pictures(seed, count, size))
        texts = [caption.text for caption in scene_data.wordings(seed, count)]
        write_embeddings(
            folder, encoders, scene_data.tokenizers(run), texts, scene_data.UNCONDITIONAL
        )
        return {}

    return store.get("latents", config.key(settings), build, settings=settings).path


@torch.inference_mode()
def write_latents(folder: Path, vae: Any, pictures: np.ndarray) -> None:
    """`latents.npy` of uint8 pictures (N, H, W, 3)."""
    count, height, width = pictures.shape[:3]
    shape = (count, 4, height // 8, width // 8)
    out = open_memmap(folder / "latents.npy", mode="w+", dtype=np.float32, shape=shape)
    for start in range(0, count, _BLOCK):
        mean = vae.encode(tensor(pictures[start : start + _BLOCK])).latent_dist.mean
        out[start : start + _BLOCK] = (mean * vae.config.scaling_factor).numpy()
    out.flush()


def write_embeddings(
    folder: Path, encoders: tuple[Any, Any], tokenizers: tuple[Any, Any], texts: Sequence[str],
    unconditional: Sequence[str],
) -> None:  # fmt: skip
    """`hidden.npy` and `pooled.npy` of the texts, `none_*.npy` of the unconditional ones; fp16."""
    files: dict[str, Any] = {}
    for name, lines in (("", list(texts)), ("none_", list(unconditional))):
        ids = prompts.tokenize(lines, tokenizers)
        for start in range(0, len(lines), _BLOCK):
            rows = ids.rows(slice(start, start + _BLOCK))
            made = networks.encode(*encoders, rows, torch.float32)
            for part, value in (("hidden", made.hidden), ("pooled", made.pooled)):
                if f"{name}{part}" not in files:
                    files[f"{name}{part}"] = open_memmap(
                        folder / f"{name}{part}.npy", mode="w+", dtype=np.float16,
                        shape=(len(lines), *value.shape[1:]),
                    )  # fmt: skip
                files[f"{name}{part}"][start : start + _BLOCK] = value.numpy()
    for file in files.values():
        file.flush()
