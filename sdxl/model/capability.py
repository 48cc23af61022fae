"""Can this program draw with a model? Answered from its configurations, before anything is loaded.

What is checked: the UNet against the VAE's latents, its conditioning against the text encoders,
the tokenizers against the rows of the embeddings. Other kinds of model are named as such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdxl.core import json_file
from sdxl.core.errors import Problem
from sdxl.model.components import COMPONENTS

TIME_IDS = 6
"""Numbers of SDXL's size conditioning: original size, crop, target size."""
CONTEXT = 77
SCALE = 8
"""Pixels per latent, in each direction."""
VAES = ("AutoencoderKL", "AutoencoderTiny")
_ADVICE = "a text-to-image SDXL model"

Configs = Mapping[str, Mapping[str, Any]]


def problems_of(
    configs: Configs, index: Mapping[str, Any], tokens: Mapping[str, int]
) -> list[Problem]:
    """Everything that keeps the model from being drawn with, its kind first; empty if nothing does.

    `index`: model_index.json, {} where there is none. `tokens`: rows that each tokenizer needs.
    """
    if kind := _kind(configs, index):
        return [
            Problem(f"the model is {kind}", _facts(configs, index), _ADVICE, "model.path=FOLDER")
        ]
    missing = [name for name in COMPONENTS if name not in configs]
    if missing:
        return [
            Problem(f"the model has no `{name}`", _facts(configs, index), _ADVICE, _bring(name))
            for name in missing
        ]
    checks = (_packed, _classes, _latents, _conditioning, _tokens)
    return [problem for check in checks for problem in check(configs, tokens)]


def _bring(name: str) -> str:
    if name == "vae":
        return "model.vae=FOLDER"
    if name == "unet":
        return "model.unet=FOLDER"
    return "python -m sdxl download sdxl   # then model.path=store:sdxl, or model.config=FOLDER"


def _facts(configs: Configs, index: Mapping[str, Any]) -> str:
    """What a kind is known by."""
    unet = configs.get("unet", {})
    names = ("in_channels", "cross_attention_dim", "addition_embed_type")
    numbers = [f"{name} {unet[name]}" for name in names if name in unet]
    return ", ".join([str(index.get("_class_name") or "no model_index.json"), *numbers])


def _kind(configs: Configs, index: Mapping[str, Any]) -> str | None:
    """Another kind of model than SDXL's text-to-image, in words."""
    pipeline = str(index.get("_class_name") or "")
    unet = configs.get("unet", {})
    latent = int(configs.get("vae", {}).get("latent_channels") or 4)
    named = {
        "StableDiffusion3": "Stable Diffusion 3",
        "Flux": "Flux",
        "Kandinsky": "Kandinsky",
        "PixArt": "PixArt",
        "StableCascade": "Stable Cascade",
        "StableVideo": "Stable Video Diffusion",
    }
    for start, name in named.items():
        if pipeline.startswith(start):
            return f"{name}, another architecture than SDXL"
    if "transformer" in index and "unet" not in configs:
        return "a diffusion transformer, another architecture than SDXL"
    channels = int(unet.get("in_channels") or latent)
    if channels == 2 * latent + 1:
        return f"an inpainting model: its UNet takes {channels} channels, mask and picture too"
    if channels == 2 * latent:
        return f"an editing model (InstructPix2Pix): its UNet takes {channels} channels"
    if not unet:
        return None
    if _is_refiner(configs, unet, index):
        return "the SDXL refiner: one text encoder and an aesthetic score"
    if unet.get("addition_embed_type") is None and unet.get("class_embed_type") is None:
        widths = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
        width = unet.get("cross_attention_dim")
        if generation := widths.get(width if isinstance(width, int) else 0):
            return f"{generation}: its UNet has no size conditioning"
        if "text_encoder_2" not in configs:
            return "of Stable Diffusion's first generation: its UNet has no size conditioning"
    return None


def _is_refiner(configs: Configs, unet: Mapping[str, Any], index: Mapping[str, Any]) -> bool:
    """Five time ids in place of six, or one encoder with the pipeline that refines pictures."""
    second = configs.get("text_encoder_2", {})
    pooled = second.get("projection_dim")
    steps = unet.get("addition_time_embed_dim")
    wide = unet.get("projection_class_embeddings_input_dim")
    five = bool(pooled and steps and wide == pooled + (TIME_IDS - 1) * steps)
    return five or bool(index.get("requires_aesthetics_score") and "text_encoder" not in configs)


def _packed(configs: Configs, _tokens: Mapping[str, int]) -> Iterator[Problem]:
    """Weights that another program quantized say so in their configuration."""
    for name in COMPONENTS:
        packed = configs[name].get("quantization_config")
        if packed:
            method = packed.get("quant_method") if isinstance(packed, Mapping) else packed
            yield Problem(
                f"the weights of `{name}` are packed by {method or 'another program'}",
                f"quantization_config of {name}/config.json",
                "weights in fp32, fp16 or bf16; this program quantizes by itself",
                "model.path=FOLDER   # the model before it was packed; then quant=int8 or fp8",
            )


def _classes(configs: Configs, _tokens: Mapping[str, int]) -> Iterator[Problem]:
    kinds = {"unet": ("UNet2DConditionModel",), "vae": VAES}
    for name, known in kinds.items():
        found = str(configs[name].get("_class_name") or known[0])
        if found not in known:
            yield Problem(
                f"`{name}` is a {found}", f"_class_name of {name}/config.json", " or ".join(known)
            )


def _latents(configs: Configs, _tokens: Mapping[str, int]) -> Iterator[Problem]:
    """Channels and scale of what the UNet denoises and the VAE decodes."""
    unet, vae = configs["unet"], configs["vae"]
    latent = int(vae.get("latent_channels") or 4)
    for name in ("in_channels", "out_channels"):
        found = int(unet.get(name) or 4)
        if found != latent:
            yield Problem(
                f"the UNet's {name} are not the VAE's latents",
                f"{name} {found}, latent_channels {latent}",
                "as many",
                "model.vae=FOLDER or model.unet=FOLDER that go together",
            )
    if latent != 4:
        yield Problem(
            f"the VAE has {latent} latent channels", "latent_channels of vae/config.json",
            "4, as every SDXL model has",
        )  # fmt: skip
    wide = vae.get("decoder_block_out_channels") or vae.get("block_out_channels") or [0] * 4
    if 2 ** (len(wide) - 1) != SCALE:
        yield Problem(
            f"the VAE makes {2 ** (len(wide) - 1)} pixels of a latent",
            f"{len(wide)} levels in vae/config.json",
            f"{SCALE} pixels, in each direction",
        )


def _conditioning(configs: Configs, _tokens: Mapping[str, int]) -> Iterator[Problem]:
    """What the UNet is told beside the noise: two encoders' states, pooled text, sizes."""
    unet = configs["unet"]
    kind = unet.get("addition_embed_type")
    if kind != "text_time":
        yield Problem(
            "the UNet is conditioned otherwise than SDXL's", f"addition_embed_type {kind}",
            "text_time: pooled text and sizes",
        )  # fmt: skip
    for name in ("class_embed_type", "num_class_embeds", "encoder_hid_dim", "encoder_hid_dim_type"):
        if unet.get(name) is not None:
            yield Problem(
                f"the UNet wants a conditioning that nothing here makes: {name}",
                f"{name} {unet[name]}", "null",
            )  # fmt: skip
    widths = [int(configs[name].get("hidden_size") or 0) for name in COMPONENTS[:2]]
    crossed = unet.get("cross_attention_dim")
    if crossed != sum(widths):
        yield Problem(
            "the UNet's cross-attention does not fit the text encoders", f"{crossed} wide",
            f"{widths[0]} + {widths[1]} = {sum(widths)}, the widths of the text encoders",
        )  # fmt: skip
    pooled = int(configs["text_encoder_2"].get("projection_dim") or widths[1])
    time = int(unet.get("addition_time_embed_dim") or 0)
    wide = unet.get("projection_class_embeddings_input_dim")
    if kind == "text_time" and wide != pooled + TIME_IDS * time:
        yield Problem(
            "the UNet's projection does not fit the second text encoder",
            f"projection_class_embeddings_input_dim {wide}",
            f"{pooled} + {TIME_IDS} x {time} = {pooled + TIME_IDS * time}: "
            "projection_dim of text_encoder_2, and the sizes",
        )


def _tokens(configs: Configs, tokens: Mapping[str, int]) -> Iterator[Problem]:
    """Every token has a row, every text of 77 tokens a place."""
    for name, needed in tokens.items():
        encoder = name.replace("tokenizer", "text_encoder")
        rows = int(configs[encoder].get("vocab_size") or 49408)
        if needed > rows:
            yield Problem(
                f"`{name}` has tokens without a row in the embedding of `{encoder}`",
                f"{needed:,} tokens, {rows:,} rows",
                "a tokenizer and a text encoder of one model",
            )
    for name in COMPONENTS[:2]:
        places = int(configs[name].get("max_position_embeddings") or CONTEXT)
        if places < CONTEXT:
            yield Problem(f"`{name}` takes {places} tokens", None, f"{CONTEXT} tokens")


def rows_of(tokenizer: Path) -> int:
    """Rows that a tokenizer's folder needs, its added tokens included; 0 if it cannot be told."""
    try:
        if (tokenizer / "tokenizer.json").is_file():
            whole = json_file.read(tokenizer / "tokenizer.json")
            numbers = [*whole["model"]["vocab"].values()]
            numbers += [added["id"] for added in whole.get("added_tokens") or []]
        else:
            numbers = [*json_file.read(tokenizer / "vocab.json").values()]
            if (tokenizer / "added_tokens.json").is_file():
                numbers += json_file.read(tokenizer / "added_tokens.json").values()
        return max(numbers) + 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0  # the tokenizer itself says what is wrong, when it is read
