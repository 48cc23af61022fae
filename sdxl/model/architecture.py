"""Configurations of the networks that this project can build without weights.

`SDXL` restates the published shapes of SDXL base 1.0 (stabilityai/stable-diffusion-xl-base-1.0);
`TINY` is the same architecture in miniature, with every kind of block that SDXL has; `SCENES` is
as small, and trained.
"""

from __future__ import annotations

from typing import Any

SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}

_UNET_COMMON: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "addition_embed_type": "text_time",
    "use_linear_projection": True,
}

_VAE_COMMON: dict[str, Any] = {
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "scaling_factor": 0.13025,
}

SDXL: dict[str, dict[str, Any]] = {
    "unet": {
        **_UNET_COMMON,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": {
        **_VAE_COMMON,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "sample_size": 1024,
    },
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
        "vocab_size": 49408,
    },
    "text_encoder_2": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
        "hidden_act": "gelu",
        "vocab_size": 49408,
    },
}

TINY: dict[str, dict[str, Any]] = {
    "unet": {
        **_UNET_COMMON,
        "sample_size": 16,
        "block_out_channels": [32, 64, 64],
        "norm_num_groups": 16,
        "layers_per_block": 1,
        "transformer_layers_per_block": [1, 1, 2],
        "attention_head_dim": [2, 4, 4],
        "cross_attention_dim": 32 + 64,
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 64 + 6 * 16,
    },
    "vae": {
        **_VAE_COMMON,
        "block_out_channels": [16, 32, 32, 32],
        "norm_num_groups": 8,
        "layers_per_block": 1,
        "sample_size": 128,
    },
    "text_encoder": {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "projection_dim": 32,
        "hidden_act": "quick_gelu",
    },
    "text_encoder_2": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "projection_dim": 64,
        "hidden_act": "gelu",
    },
}

SCENES: dict[str, dict[str, Any]] = {
    "unet": {
        **_UNET_COMMON,
        "sample_size": 16,
        "block_out_channels": [48, 96, 128],
        "norm_num_groups": 16,
        "layers_per_block": 1,
        "transformer_layers_per_block": [1, 1, 2],
        "attention_head_dim": [2, 3, 4],
        "cross_attention_dim": 64 + 96,
        "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 96 + 6 * 16,
    },
    "vae": {
        **_VAE_COMMON,
        "block_out_channels": [16, 32, 64, 64],
        "norm_num_groups": 8,
        "layers_per_block": 1,
        "sample_size": 64,
    },
    "text_encoder": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "projection_dim": 64,
        "hidden_act": "quick_gelu",
    },
    "text_encoder_2": {
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "projection_dim": 96,
        "hidden_act": "gelu",
    },
}
"""The bundled model that we train on rendered scenes: 64 pixels, 8 x 8 latents."""

_SD2_COMMON: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "use_linear_projection": True,
    "norm_num_groups": 16,
}

SD2: dict[str, dict[str, Any]] = {
    "sd2_random": {
        **_SD2_COMMON,
        "sample_size": 64,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
    },
    "sd2_tiny": {
        **_SD2_COMMON,
        "sample_size": 8,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [32, 64],
        "layers_per_block": 1,
        "attention_head_dim": [1, 2],
        "cross_attention_dim": 96,
    },
}
"""UNets of MLPerf's training benchmark, Stable Diffusion 2, and its miniature; trained only."""
