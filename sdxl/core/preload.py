"""Imported once in the server that measurements are forked from; touches no device."""

import diffusers
import torch
import transformers

# Attribute access: both libraries load their submodules lazily.
MODULES = (
    torch.nn.functional,
    diffusers.AutoencoderKL,
    diffusers.EulerDiscreteScheduler,
    diffusers.UNet2DConditionModel,
    transformers.CLIPTextModelWithProjection,
    transformers.CLIPTokenizer,
)
