"""The stage `clip`: both text encoders and a picture encoder, so that pairs lie close."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn import functional

from sdxl.config.plugins import TrainingStage
from sdxl.config.schema.train import Training
from sdxl.model import architecture
from sdxl.quality.scenes.encoder import FEATURES, PictureEncoder
from sdxl.quality.scenes.networks import to_tensor
from sdxl.training.data import scene_data
from sdxl.training.loop import Batch, trained_rows

_HELD_BACK = 512
_SCALE = 2.6592
"""Logarithm of the similarities' first scale, 1/0.07, as CLIP's."""


def text_networks() -> tuple[nn.Module, nn.Module]:
    """Both text encoders with a projection; the first is shipped without."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    tokenizer = scene_data.learnt_tokenizers()[0]
    built = []
    for name in ("text_encoder", "text_encoder_2"):
        config = CLIPTextConfig(
            **architecture.SCENES[name],
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        built.append(CLIPTextModelWithProjection(config))
    return built[0], built[1]


class Pair(nn.Module):
    """Losses of the contrastive pair: each text against all pictures, and the reverse."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures = PictureEncoder()
        self.first, self.second = text_networks()
        names = ("text_encoder", "text_encoder_2")
        widths = [architecture.SCENES[name]["projection_dim"] for name in names]
        self.to_text = nn.ModuleList(nn.Linear(FEATURES, width) for width in widths)
        self.scales = nn.Parameter(torch.full((2,), _SCALE))

    def forward(self, pixels: Tensor, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """pixels (B, 3, H, W) in -1..1; token ids (B, 77) of both encoders."""
        seen, (one, other) = self.pictures(pixels), self.texts(first, second)
        losses = {}
        for name, number, text in (("first", 0, one), ("second", 1, other)):
            image = _all(functional.normalize(self.to_text[number](seen), dim=-1))
            words = _all(functional.normalize(text, dim=-1))
            logits = image @ words.T * self.scales[number].clamp(max=4.6052).exp()
            target = torch.arange(len(logits), device=logits.device)
            losses[name] = (
                functional.cross_entropy(logits, target)
                + functional.cross_entropy(logits.T, target)
            ) / 2
        return {"loss": losses["first"] + losses["second"], **losses}

    def texts(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Projected texts of both encoders."""
        one: Any = self.first
        other: Any = self.second
        return one(input_ids=first).text_embeds, other(input_ids=second).text_embeds


def _all(rows: Tensor) -> Tensor:
    """These rows of all processes, in order, with gradients."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from torch.distributed.nn.functional import all_gather

        return torch.cat(list(all_gather(rows)))
    return rows


class Stage:
    """Trains the pair on rendered scenes and their captions."""

    identity = scene_data.IDENTITY

    eval_count = _HELD_BACK

    def __init__(self, settings: Training, seed: int) -> None:
        self.count = trained_rows(settings.scenes, _HELD_BACK)
        torch.manual_seed(seed)
        self.module = Pair()
        self.pictures = scene_data.pictures(seed, settings.scenes, settings.size)
        texts = [caption.text for caption in scene_data.wordings(seed, settings.scenes)]
        first, second = scene_data.token_ids(texts, scene_data.learnt_tokenizers())
        self.first, self.second = torch.from_numpy(first), torch.from_numpy(second)
        # What follows a caption's end cannot change it: the encoders look back only.
        self.longest = int((self.first == self.first[0, -1]).long().argmax(1).max()) + 1

    def batch(self, batch: Batch, device: torch.device) -> dict[str, Any]:
        """Pictures and the ids of their captions."""
        return self._pairs(torch.from_numpy(batch.rows), device)

    def _pairs(self, rows: Tensor, device: torch.device) -> dict[str, Any]:
        return {
            "pixels": to_tensor(self.pictures[rows.numpy()]).to(device),
            "first": self.first[rows, : self.longest].to(device),
            "second": self.second[rows, : self.longest].to(device),
        }

    @torch.no_grad()
    def evaluate(self, device: torch.device) -> tuple[dict[str, float], Any]:
        """How often a caption held back finds its picture among 512."""
        given = self._pairs(torch.arange(self.count, self.count + _HELD_BACK), device)
        module: Any = self.module
        seen = module.to_text[1](module.pictures(given["pixels"]))
        words = module.texts(given["first"], given["second"])[1]
        similar = functional.normalize(seen, dim=-1) @ functional.normalize(words, dim=-1).T
        right = similar.argmax(0) == torch.arange(_HELD_BACK, device=device)
        matched = similar.diagonal().mean()
        others = similar.sum() - similar.diagonal().sum()
        apart = matched - others / (similar.numel() - len(similar))
        return {"found_share": float(right.float().mean()), "margin": float(apart)}, None

    def export(self, folder: Path) -> None:
        """Text encoders in transformers' form, and the picture encoder with its projections."""
        from transformers import CLIPTextModel

        module: Any = self.module
        first = CLIPTextModel(module.first.config)
        weights = module.first.state_dict()
        names = first.state_dict()
        renamed = {name: weights[_same(name, weights)] for name in names}
        first.load_state_dict(renamed)
        first.save_pretrained(folder / "text_encoder")
        module.second.save_pretrained(folder / "text_encoder_2")
        looking = nn.ModuleDict({"pictures": module.pictures, "to_text": module.to_text})
        save_model(looking, str(folder / "encoder.safetensors"))
        one, other = scene_data.learnt_tokenizers()
        one.save_pretrained(folder / "tokenizer")
        other.save_pretrained(folder / "tokenizer_2")


def _same(name: str, weights: dict[str, Tensor]) -> str:
    """A weight's name in the model with projection, which may hold the text model one deeper."""
    return name if name in weights else f"text_model.{name}"


STAGE = TrainingStage(lambda config: Stage(config.train, config.seed), scene_data.folder_of)
