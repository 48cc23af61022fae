"""Imported once in the server that measurements are forked from; touches no device."""

import os
import sys

from sdxl.core import collector

collector.relax()
try:
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
except Exception as error:  # multiprocessing passes over some, and shows others with a traceback
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)
collector.settle()
