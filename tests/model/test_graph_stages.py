"""Pictures of graphs become bytes where they lie, slice by slice, as every backend rounds them."""

import numpy as np
import pytest
import torch

from sdxl.config import schema
from sdxl.core.errors import StageError
from sdxl.model.graph_stages import GraphStages
from sdxl.model.images import to_uint8


def test_slices_are_rounded_as_diffusers_does_and_nan_is_refused():
    torch.manual_seed(0)
    latents = torch.randn(5, 3, 8, 8)
    sizes = []

    def decoder(given):
        sizes.append(len(given["latents"]))
        return {"image": given["latents"].half()}

    stages = GraphStages({"vae_decoder": decoder}, torch.device("cpu"), torch.float32, 2,
                         schema.Shortcut("none"))  # fmt: skip
    expected = to_uint8(latents.half().permute(0, 2, 3, 1).float().numpy())
    assert np.array_equal(stages.decode(latents), expected) and sizes == [2, 2, 1]
    latents[3, 0, 0, 0] = float("nan")
    with pytest.raises(StageError, match="NaN"):
        stages.decode(latents)
