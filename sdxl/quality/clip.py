"""CLIP as MLPerf's CLIP scores use it: open_clip's ViT-B/32 "openai" or its ViT-H/14.

The network is transformers' own; what is done here is what surrounds it: weights in OpenAI's
layout, OpenAI's preprocessing (bicubic, center crop) and OpenAI's cleaning of captions.
"""

from __future__ import annotations

import html
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdxl.core.errors import UserError
from sdxl.model.clip_vocabulary import read_vocabulary

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
HEAD = 64
"""Channels of an attention head in every CLIP of OpenAI's, and in every text tower."""


@dataclass(frozen=True)
class Family:
    """What the shapes of weights do not tell; a vision tower's heads, and its published widths."""

    name: str
    vision_head: int
    activation: str
    vision_widths: tuple[int, ...]


OPENAI = Family("OpenAI's", HEAD, "quick_gelu", (768, 1024))
VIT_H_14 = Family("open_clip's ViT-H/14", 80, "gelu", (1280,))
_FAMILIES = (OPENAI, VIT_H_14)

_NAMES = (
    ("attn.out_proj.", "self_attn.out_proj."),
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)
_TOWERS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
    "token_embedding.": "text_model.embeddings.token_embedding.",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "logit_scale": "logit_scale",
}


class Clip:
    """Features of pictures and captions, on one device, in fp32."""

    def __init__(self, network: Any, tokenizer: Any, device: torch.device) -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.tokenizer, self.device = tokenizer, device
        self.size: int = network.config.vision_config.image_size
        self.context: int = network.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def pictures(self, images: np.ndarray) -> np.ndarray:
        """uint8 images (B, H, W, 3) -> features (B, D) of unit length, float32."""
        pixels = torch.stack([preprocess(image, self.size) for image in images]).to(self.device)
        pooled = self.network.vision_model(pixel_values=pixels).pooler_output
        return _unit(self.network.visual_projection(pooled))

    @torch.inference_mode()
    def captions(self, texts: Sequence[str]) -> np.ndarray:
        """Captions -> features (B, D) of unit length, float32."""
        ids = torch.from_numpy(tokenize(texts, self.tokenizer, self.context))
        # What follows the end of the longest text is masked: it need not be computed.
        ids = ids[:, : int(ids.argmax(-1).max()) + 1].to(self.device)
        hidden = self.network.text_model(input_ids=ids).last_hidden_state
        ends = hidden[torch.arange(len(ids), device=ids.device), ids.argmax(-1)]
        return _unit(self.network.text_projection(ends))


def _unit(features: torch.Tensor) -> np.ndarray:
    return (features / features.norm(dim=-1, keepdim=True)).cpu().numpy()


def preprocess(image: np.ndarray, size: int) -> torch.Tensor:
    """A picture (H, W, 3) as CLIP sees it, float32 (3, size, size).

    Pillow's bicubic to the shorter side, the center, OpenAI's mean and deviation: as torchvision's
    transforms in open_clip do it, to the bit.
    """
    from PIL import Image

    picture = Image.fromarray(image)
    width, height = picture.size
    short = min(width, height)
    if short != size:
        picture = picture.resize(
            (size * width // short, size * height // short), Image.Resampling.BICUBIC
        )
    left, top = round((picture.width - size) / 2), round((picture.height - size) / 2)
    picture = picture.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def _marks(text: str) -> str:
    """Begin and end of text as open_clip spells them, in a caption that holds either spelling.

    To it transformers' `<|endoftext|>` is three words, and its own `<end_of_text>` the mark.
    """
    for name, other in (("startoftext", "start_of_text"), ("endoftext", "end_of_text")):
        text = re.sub(rf"<\|({name})\|>", r"<| \1 |>", text, flags=re.IGNORECASE)
        text = re.sub(f"<{other}>", f"<|{name}|>", text, flags=re.IGNORECASE)
    return text


def tokenize(texts: Sequence[str], tokenizer: Any, context: int) -> np.ndarray:
    """Token ids, int64 (N, context), zeros after the end.

    OpenAI's cleaning apart from ftfy, which changes no ASCII text.
    """
    clean = [_marks(" ".join(html.unescape(html.unescape(text)).split())) for text in texts]
    found = tokenizer(clean, truncation=True, max_length=context)["input_ids"]
    ids = np.zeros((len(clean), context), np.int64)
    for row, each in zip(ids, found, strict=True):
        row[: len(each)] = each
    return ids


def load(
    weights: Path, vocabulary: Path, trusted_archive: bool, device: torch.device,
    family: Family = OPENAI,
) -> Clip:  # fmt: skip
    """CLIP from a weights file and a vocabulary.

    Weights: a state dict in OpenAI's layout, or .safetensors in OpenAI's or transformers' layout.
    OpenAI's own ViT-B-32.pt is a TorchScript archive, code included: it is opened only as
    `trusted_archive`, when its checksum is that of the published file.
    """
    tokenizer = read_vocabulary(vocabulary)
    state = _read(weights, trusted_archive)
    network = build(state, weights, family)
    tokens = network.config.text_config.vocab_size
    if len(tokenizer) != tokens:
        raise UserError(
            f"{vocabulary} is of another CLIP", f"{len(tokenizer)} tokens", f"{tokens} tokens"
        )
    return Clip(network, tokenizer, device)


def from_folder(folder: Path, device: torch.device) -> Clip:
    """A CLIP in transformers' layout, with vocab.json and merges.txt beside its weights."""
    from transformers import CLIPModel

    try:
        network: Any = CLIPModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        expected = "config.json and weights in transformers' layout"
        raise UserError(f"{folder} is no CLIP", said, expected) from error
    return Clip(network.float(), read_vocabulary(folder), device)


def build(state: dict[str, torch.Tensor], origin: Path, family: Family = OPENAI) -> Any:
    """transformers' CLIPModel with the weights of a state dict, shapes read off them.

    Raises `UserError` for weights of another family: they would load, and see something else.
    """
    from transformers import CLIPConfig, CLIPModel

    expected = "a CLIP with a vision transformer, OpenAI's or transformers' names"
    if "visual.proj" in state:
        state = to_transformers(state)
    try:
        shapes = _shapes(state, family)
        _refuse_others(shapes["vision_config"]["hidden_size"], origin, family)
        config = CLIPConfig(**shapes)
        with torch.device("meta"):
            network = CLIPModel(config)
        floats = {n: v.float() for n, v in state.items() if not n.endswith("position_ids")}
        found = network.load_state_dict(floats, strict=False, assign=True)
    except (KeyError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{origin} is no CLIP that is known here", said, expected) from error
    missing = [name for name in found.missing_keys if not name.endswith("position_ids")]
    if missing or found.unexpected_keys:
        got = ", ".join([*missing, *found.unexpected_keys][:3])
        raise UserError(f"{origin} lacks tensors or has others", got, expected)
    for tower in (network.vision_model, network.text_model):
        places = tower.embeddings.position_embedding.num_embeddings
        tower.embeddings.position_ids = torch.arange(places)[None]
    return network


def _refuse_others(width: int, origin: Path, family: Family) -> None:
    other = next((each for each in _FAMILIES if width in each.vision_widths), None)
    if (other and other != family) or width % family.vision_head:
        raise UserError(
            f"{origin} is no CLIP of {family.name}",
            f"a vision tower {width} wide" + (f", {other.name}" if other else ""),
            f"one of {' or '.join(map(str, family.vision_widths))}",
        )


def to_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's names and shapes as transformers' (fused q/k/v split, projections transposed)."""
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name in ("input_resolution", "context_length", "vocab_size"):
            continue
        if name in ("visual.proj", "text_projection"):
            kind = "visual" if name == "visual.proj" else "text"
            found[f"{kind}_projection.weight"] = value.T.contiguous()
            continue
        start = next((prefix for prefix in _TOWERS if name.startswith(prefix)), "")
        renamed = _TOWERS.get(start, "") + name.removeprefix(start)
        for theirs, ours in _NAMES:
            renamed = renamed.replace(f".{theirs}", f".{ours}")
        place, fused, kind = renamed.partition(".attn.in_proj_")
        if fused:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                found[f"{place}.self_attn.{part}_proj.{kind}"] = piece
        else:
            found[renamed] = value
    return found


def _shapes(state: dict[str, torch.Tensor], family: Family) -> dict[str, Any]:
    """The configuration that the tensors imply."""

    def tower(name: str, position: str, head: int) -> dict[str, Any]:
        inner, width = state[f"{name}.encoder.layers.0.mlp.fc1.weight"].shape
        layers = {key.split(".")[3] for key in state if key.startswith(f"{name}.encoder.layers.")}
        return {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": len(layers),
            "num_attention_heads": max(1, width // head),
            "hidden_act": family.activation,
            position: len(state[f"{name}.embeddings.position_embedding.weight"]),
        }

    vision = tower("vision_model", "places", family.vision_head)
    patch = state["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    across = round((vision.pop("places") - 1) ** 0.5)
    text = tower("text_model", "max_position_embeddings", HEAD)
    text["vocab_size"] = len(state["text_model.embeddings.token_embedding.weight"])
    text["bos_token_id"], text["eos_token_id"] = text["vocab_size"] - 2, text["vocab_size"] - 1
    return {
        "text_config": text,
        "vision_config": {**vision, "patch_size": patch, "image_size": patch * across},
        "projection_dim": len(state["text_projection.weight"]),
    }


def _read(path: Path, trusted_archive: bool) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read", str(error), "a .safetensors file") from error
    if _is_archive(path):
        if trusted_archive:
            return dict(torch.jit.load(path, map_location="cpu").state_dict())
        raise UserError(
            f"{path} is a TorchScript archive, which holds code, and not the published one",
            "another checksum",
            "OpenAI's ViT-B-32.pt, or its tensors alone as .safetensors",
            "python -m sdxl download metrics",
        )
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds
        said = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read", said, "a state dict of tensors") from error
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise UserError(f"{path} is no state dict", type(found).__name__, "tensors by name")
    return found


def _is_archive(path: Path) -> bool:
    """TorchScript's zip has a folder of code, a state dict's has none."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as opened:
        return any("/code/" in name or name.endswith("constants.pkl") for name in opened.namelist())
