"""The stage `lora`: low-rank layers learn beside a UNet that stays as it is, quantized or not.

Loss, noise and rows are those of the stage `finetune`. The result is a file for `model.lora`, which
is fused into the weights before anything is quantized.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdxl.config import content_key, loras
from sdxl.config.plugins import TrainingStage
from sdxl.config.schema import Format
from sdxl.config.schema.train import Lora, TrainConfig
from sdxl.core import store
from sdxl.core.errors import UserError
from sdxl.core.progress import Progress
from sdxl.model import prompts
from sdxl.model.components import Source
from sdxl.model.sources import open_source, shapes_source
from sdxl.quant import build
from sdxl.training import adapters, average, launch, use
from sdxl.training.data import embed
from sdxl.training.stages import fake_quant, finetune
from sdxl.training.stages.denoising import Told, unheard

FROZEN_BYTES = 4
"""Per parameter that stays as it is, in fp32."""
_TEXT_LAYERS = re.compile(r"\.(q|k|v|out)_proj$")


def folder_of(config: TrainConfig) -> Path:
    """Where this model's LoRA is trained; beside a quantized UNet, a folder for each checkpoint."""
    if not hasattr(config.model, "lora") and not config.plan:
        raise UserError(
            "this model takes no LoRA afterwards", f"model={config.model.name}",
            "a model with `model.lora`", "model=scenes, or model=sdxl model.path=FOLDER",
        )  # fmt: skip
    name = f"lora-{config.model.name}"
    if config.quant.format is Format.none:
        opened = shapes_source if config.plan else open_source
        key = content_key.key(opened(config.model, config.seed).identity())
    else:
        name += f"-{config.quant.name}-{config.quant.level:g}"
        key = build.key_of(config)
    return store.root() / "training" / config.train.run / f"{name}-{key[:8]}"


def plan(config: TrainConfig) -> dict[str, Any]:
    """The layers, their parameters and the memory of all weights; activations come on top."""
    settings = config.train
    assert isinstance(settings, Lora)
    source, meta = shapes_source(config.model, config.seed), torch.device("meta")
    unet: Any = source.component("unet", torch.float32, meta)
    frozen = sum(p.numel() for p in unet.parameters())
    names = adapters.layers(unet, settings.targets)
    adapters.put(unet, names, settings.rank, _alpha(settings))
    trained = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    gib = (frozen * FROZEN_BYTES + average.state_bytes(trained, settings.ema)) / 2**30
    return {"layers": len(names), "parameters": trained, "state_gib": round(gib, 2)}


def outcome(config: TrainConfig, made: Path) -> dict[str, Any]:
    """Where the LoRA is, the line that draws with it, and the one that quantizes and measures it.

    The last also measures its baseline: the same LoRA in the unquantized UNet.
    """
    words = drawing(config, [made])
    quantized = config.quant.format is not Format.none
    recipe = " ".join(use.recipe(config)) if quantized else "quant=int8"
    measure = f"{words} {recipe} quality=fast"
    launch.say(f"to draw with it: {words}\nquantized, beside its baseline: {measure}")
    return {"lora": str(made), "use": words, "measure": measure}


def drawing(config: TrainConfig, made: Sequence[Path]) -> str:
    """The line that draws with LoRAs that it has left, beside those that it began with."""
    before = [f"{each.path}@{each.scale:g}" for each in loras.of(config.model)]
    every = [[*before, str(each)] if before else each for each in made]
    told = (*finetune.told_apart(config), "rules=open")
    return use.line(config, "model.lora", every, *told, without=("lora", "lora_scale"))


def _alpha(settings: Lora) -> float:
    return float(settings.rank) if settings.alpha is None else settings.alpha


class Stage(finetune.Stage):
    """Trains the layers beside the UNet's and, with `train.text_encoders`, the encoders'."""

    def __init__(self, config: TrainConfig) -> None:
        assert isinstance(config.train, Lora)
        torch.manual_seed(config.seed)
        super().__init__(config)
        self.settings: Lora = config.train
        self.networks = {"unet": self.module.unet}
        if self.settings.text_encoders:
            self._teach_encoders(config)

    def _unet(self, config: TrainConfig, source: Source) -> Any:
        unet: Any = source.component("unet", torch.float32, torch.device("cpu"))
        settings = config.train
        assert isinstance(settings, Lora)
        names = adapters.layers(unet, settings.targets)
        made = None
        if config.quant.format is not Format.none:
            with Progress("train=lora") as progress:
                made = build.prepare(config, progress.report)
            unet = fake_quant.still(unet, made.path)
        adapters.put(unet, names, settings.rank, _alpha(settings))
        return fake_quant.round_attention(unet, made.path) if made else unet

    def _teach_encoders(self, config: TrainConfig) -> None:
        source = open_source(config.model, config.seed)
        self.tokenizers = source.tokenizers()
        self.none_texts = embed.unconditional(config.model)
        first, second = embed.text_encoders(source, torch.device("cpu"))
        lost = {module for each in unheard(first) for module in each.modules()}
        for name, encoder in (("text_encoder", first), ("text_encoder_2", second)):
            heard = [
                name
                for name, module in encoder.named_modules()
                if _TEXT_LAYERS.search(name) and module not in lost
            ]
            adapters.put(encoder, heard, self.settings.rank, _alpha(self.settings))
            self.networks[name] = encoder
        self.module = Told(self.module, first, second).train()

    def _given(
        self, rows: np.ndarray, chance: Tensor, posterior: Tensor | None = None
    ) -> dict[str, Tensor]:
        given = super()._given(rows, chance, posterior)
        if not self.settings.text_encoders:
            return given
        texts = self.examples.texts(rows)
        for place, value in enumerate(chance.tolist()):
            if value < self.settings.dropped:
                texts[place] = self.none_texts[int(value >= self.settings.dropped / 2)]
        ids = prompts.tokenize(texts, self.tokenizers)
        told = {"first": torch.from_numpy(ids.first), "second": torch.from_numpy(ids.second)}
        return {**{name: given[name] for name in ("latents", "time_ids")}, **told}

    def export(self, folder: Path) -> None:
        """The LoRA in diffusers' form."""
        adapters.write(folder, self.networks, self.settings.rank, _alpha(self.settings))


STAGE = TrainingStage(Stage, folder_of, plan, outcome, drawing=drawing)
