"""What config.json files say and weights do not (a scale, heads), for content keys."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sdxl.config import content_key
from sdxl.core import json_file
from sdxl.core.paths import BUNDLED
from sdxl.model import architecture

Said = Mapping[str, Any]

_NO_EFFECT = {
    *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype"),
    *("sample_size", "initializer_factor", "initializer_range"),
    *("attention_dropout", "dropout"),  # in training alone
    *("bos_token_id", "pad_token_id"),
}
_TOLD_BY_WEIGHTS = {
    *("in_channels", "out_channels", "latent_channels", "block_out_channels", "layers_per_block"),
    *("transformer_layers_per_block", "down_block_types", "up_block_types", "cross_attention_dim"),
    *("projection_class_embeddings_input_dim", "addition_time_embed_dim", "time_cond_proj_dim"),
    *("hidden_size", "intermediate_size", "num_hidden_layers", "projection_dim", "vocab_size"),
}
"""By their names and shapes."""
_DEFAULTS: dict[str, dict[str, Any]] = {
    "unet": {
        "act_fn": "silu", "addition_embed_type_num_heads": 64, "attention_type": "default",
        "center_input_sample": False, "class_embeddings_concat": False, "conv_in_kernel": 3,
        "conv_out_kernel": 3, "downsample_padding": 1, "dual_cross_attention": False,
        "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-05, "norm_num_groups": 32,
        "only_cross_attention": False, "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False, "resnet_time_scale_shift": "default",
        "time_embedding_type": "positional", "upcast_attention": False,
        "mid_block_only_cross_attention": False,
    },
    "vae": {
        "act_fn": "silu", "force_upcast": True, "mid_block_add_attention": True,
        "norm_num_groups": 32, "use_post_quant_conv": True, "use_quant_conv": True,
    },
    "text_encoder": {"layer_norm_eps": 1e-05, "max_position_embeddings": 77, "eos_token_id": 2},
    "text_encoder_2": {"layer_norm_eps": 1e-05, "max_position_embeddings": 77, "eos_token_id": 2},
}  # fmt: skip
"""What SDXL's own files say beside `architecture.SDXL`, and what later versions add to them."""


def identity(configs: Mapping[str, Said]) -> dict[str, str]:
    """Fingerprints of the files that are neither SDXL's nor the bundled model's, by name.

    Those two have none: their older keys stay what they were.
    """
    return {
        f"{name}/config.json": content_key.key(_told(config))
        for name, config in configs.items()
        if not any(_same(name, config, usual) for usual in _usual(name))
    }


@cache
def _usual(name: str) -> tuple[Said, ...]:
    ours = BUNDLED / name / "config.json"
    bundled = [_told(json_file.read_object(ours))] if ours.is_file() else []
    return _told(architecture.SDXL.get(name, {})), *bundled


def _same(name: str, config: Said, usual: Said) -> bool:
    """Whether a file has the usual effect; diffusers writes every setting, transformers not."""
    told, expected = _told(config), {**_DEFAULTS.get(name, {}), **usual}
    whole = name.startswith("text") or told.keys() >= usual.keys()
    return whole and all(value == expected.get(key) for key, value in told.items())


def _told(config: Said) -> dict[str, Any]:
    """Settings that have an effect; null is what is not there."""
    return {
        key: value
        for key, value in config.items()
        if key not in _NO_EFFECT | _TOLD_BY_WEIGHTS
        and not key.startswith("_")
        and value is not None
    }
