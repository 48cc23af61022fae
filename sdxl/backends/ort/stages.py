"""ONNX Runtime: the exported graphs on CPU, or on CUDA and TensorRT through its providers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdxl.backends.ort.config import Config
from sdxl.backends.ort.session import Graph, Runtime
from sdxl.config import graphs, schema
from sdxl.core.types import Embeddings, TokenIds
from sdxl.model.components import torch_dtype
from sdxl.model.images import to_uint8


class OrtStages:
    """`Stages` on four sessions of ONNX Runtime."""

    def __init__(self, config: schema.Config, artifacts: dict[str, Path]) -> None:
        backend = config.backend
        assert isinstance(backend, Config)
        self.settings = backend
        self.runtime = Runtime(config)
        self.sessions: dict[str, Graph] = {
            name: Graph(self.runtime, name, artifacts[name] / graphs.MODEL)
            for name in graphs.GRAPHS
        }
        self.dtype = torch_dtype(config.precision.unet)
        self.precision = {name: graphs.dtype_of(config, name).value for name in graphs.GRAPHS}
        self.quantization = config.quant.format.value

    def encode(self, ids: TokenIds) -> Embeddings:
        """Penultimate states of both encoders (N, 77, D), pooled output of the second (N, P)."""
        first, second = (
            torch.as_tensor(rows, device=self.runtime.device) for rows in (ids.first, ids.second)
        )
        (hidden,) = self.sessions["text_encoder"](first)
        hidden_2, pooled = self.sessions["text_encoder_2"](second)
        states = torch.cat([hidden, hidden_2], dim=-1)
        return Embeddings(states.to(self.dtype), pooled.to(self.dtype), time_ids=None)

    def unet(
        self, sample: torch.Tensor, timestep: torch.Tensor, embeddings: Embeddings
    ) -> torch.Tensor:
        """Predicted noise (N, 4, h, w)."""
        scale = [] if embeddings.guidance is None else [embeddings.guidance]
        added = embeddings.pooled, embeddings.time_ids, *scale
        when = timestep.reshape(1).float()
        (noise,) = self.sessions["unet"](sample, when, embeddings.hidden, *added)
        return noise

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """uint8 images (B, H, W, 3) in host memory; raises `StageError` on NaN or Inf."""
        decoder = self.sessions["vae_decoder"]
        parts = []
        for chunk in latents.split(self.settings.decode_batch_size or len(latents)):
            (image,) = decoder(chunk.to(decoder.dtypes[0]))
            parts.append(to_uint8(image.permute(0, 2, 3, 1).float().cpu().numpy()))
        return np.concatenate(parts)

    def describe(self) -> dict[str, Any]:
        """Device, providers, and the kernels that really ran, by graph."""
        kernels = {name: session.kernels for name, session in self.sessions.items()}
        return {
            "backend": "ort",
            **self.runtime.describe(),
            "by_shape": self.runtime.device.type == "cuda",  # plans and engines, kept by shape
            "quantization": self.quantization,
            # INT8 layers run in integer kernels, `kernels` counts them; FP8 ones in float kernels.
            "simulated": self.quantization == schema.Format.fp8.value,
            "precision": self.precision,
            "kernels": {name: found for name, found in kernels.items() if found},
        }

    def close(self) -> None:
        """Free the sessions."""
        self.sessions.clear()
