"""Models that need no download: a tokenizer learnt from our prompts, networks from a seed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdxl.core import json_file
from sdxl.core.errors import UserError
from sdxl.model import architecture
from sdxl.model.components import Settings
from sdxl.model.tokenizer import tokenizers, vocabulary


class RandomSource:
    """Networks of given shapes with seeded random weights.

    `through_fp32`: draw in fp32 and round, so that one seed means one model at every precision;
    else draw in the asked dtype, at no more memory than the weights and one of them.
    """

    def __init__(
        self,
        configs: dict[str, dict[str, Any]],
        seed: int,
        unet_config: str | None = None,
        through_fp32: bool = True,
    ) -> None:
        self.configs = {name: dict(config) for name, config in configs.items()}
        if unet_config:
            self.configs["unet"] = _read_unet_config(Path(unet_config), configs)
        self.seed, self.through_fp32 = seed, through_fp32

    def tokenizers(self) -> tuple[Any, Any]:
        """The built-in pair."""
        return tokenizers()

    def scheduler(self) -> Any:
        """SDXL's Euler scheduler."""
        from diffusers import EulerDiscreteScheduler

        return EulerDiscreteScheduler(**architecture.SCHEDULER)

    def settings(self, part: str) -> Settings:
        """What the scheduler's file would say; nothing of the pipeline."""
        return architecture.SCHEDULER if part == "scheduler" else {}

    def component(self, name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
        """One network in evaluation mode; `name` as in diffusers' model_index.json."""
        with torch.device("meta"):
            module = self._build(name)
        if device.type == "meta":
            return _cast(module, dtype).eval().requires_grad_(False)
        drawn = torch.float32 if self.through_fp32 else dtype
        _cast(module, drawn).to_empty(device=device)
        _fill(module, f"{self.seed}/{name}")
        return _cast(module, dtype).eval().requires_grad_(False)

    def identity(self) -> dict[str, Any]:
        """What decides the weights, for content keys."""
        return {"configs": self.configs, "seed": self.seed, "through_fp32": self.through_fp32}

    def _build(self, name: str) -> Any:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        config = self.configs[name]
        if name == "unet":
            try:
                return UNet2DConditionModel(**config)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"diffusers cannot build the UNet of `model.unet_config`: {error}"
                ) from error
        if name == "vae":
            return AutoencoderKL(**config)
        size = len(vocabulary()[0])
        ids: dict[str, Any] = {"bos_token_id": size - 2, "eos_token_id": size - 1}
        text = CLIPTextConfig(**{"vocab_size": size, **config}, **ids)
        return CLIPTextModel(text) if name == "text_encoder" else CLIPTextModelWithProjection(text)


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`nn.Module.to`, past diffusers' own, which warns at every cast."""
    return nn.Module.to(module, dtype)


@torch.no_grad()
def _fill(module: nn.Module, seed: str) -> None:
    """Unit gain for matrices and kernels, ones and zeros for norms, small biases."""
    for name, parameter in module.named_parameters():
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        if parameter.dim() >= 2:
            fan_in = parameter[0].numel()
            _normal(parameter, fan_in**-0.5, generator)
        elif name.endswith("weight"):
            parameter.fill_(1)
        else:
            _normal(parameter, 0.02, generator)
    for name, buffer in module.named_buffers():
        assert name.endswith("position_ids"), f"unknown buffer {name}: how is it filled?"
        buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))


def _normal(parameter: torch.Tensor, deviation: float, generator: torch.Generator) -> None:
    """Drawn on the CPU wherever the parameter is: a GPU's generator makes another model."""
    drawn = parameter if parameter.is_cpu else torch.empty_like(parameter, device="cpu")
    drawn.normal_(0, deviation, generator=generator)
    if drawn is not parameter:
        parameter.copy_(drawn)


def _read_unet_config(path: Path, configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A diffusers UNet config.json whose conditioning fits the text encoders."""
    try:
        config = json_file.read_object(path)
    except (OSError, ValueError) as error:
        raise UserError(
            "`model.unet_config` cannot be read", str(error), "a diffusers UNet config.json"
        ) from error
    for field in ("cross_attention_dim", "projection_class_embeddings_input_dim"):
        wanted = configs["unet"][field]
        if config.get(field) != wanted:
            raise UserError(
                f"{path}: `{field}` does not fit the text encoders", config.get(field), wanted
            )
    return {name: value for name, value in config.items() if not name.startswith("_")}
