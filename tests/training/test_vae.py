"""The autoencoder's stage: what it sees, and how its latents are moved."""

import numpy as np
import pytest
import torch

from sdxl.config.schema.train import Training
from sdxl.core.errors import UserError
from sdxl.quality.scenes.networks import to_tensor
from sdxl.training.loop import Batch
from sdxl.training.stages import vae

CPU = torch.device("cpu")


def test_whole_pictures_come_last_and_two_processes_share_them():
    stage = vae.Stage(Training(name="vae", scenes=80, size=128, steps=10, batch=16), 0)
    rows = np.arange(16)

    def pixels(step, share):
        return stage.batch(Batch(step, rows[share], share, 16, 0), CPU)["pixels"]

    assert pixels(5, slice(0, 16)).shape == (16, 3, 64, 64)
    whole = pixels(6, slice(0, 16))
    assert whole.shape == (4, 3, 128, 128)
    assert torch.equal(whole, torch.cat([pixels(6, slice(0, 8)), pixels(6, slice(8, 16))]))
    assert torch.equal(whole[1], to_tensor(np.array(stage.pictures[4:5]))[0])


def test_a_batch_whose_whole_pictures_cannot_be_shared_is_refused(monkeypatch):
    given = Training(name="vae", scenes=80, size=128, steps=10, batch=24)
    monkeypatch.setattr(vae.machine, "processes", lambda: 4)
    with pytest.raises(UserError, match="a multiple of 16"):
        vae.Stage(given, 0)
    monkeypatch.setattr(vae.machine, "processes", lambda: 3)
    assert vae.Stage(given, 0).every == 4


def test_moving_the_latents_does_not_move_the_pictures():
    from diffusers import AutoencoderKL

    from sdxl.model import architecture

    torch.manual_seed(0)
    network = AutoencoderKL(**architecture.SCENES["vae"]).eval()
    pixels = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        before = network.encode(pixels).latent_dist
        picture = network.decode(before.mean).sample
        vae.normalize(network, before.mean)
        after = network.encode(pixels).latent_dist
        assert torch.allclose(network.decode(after.mean).sample, picture, atol=1e-4)
    spread = after.mean.std((0, 2, 3)) * network.config.scaling_factor
    assert torch.allclose(spread, torch.ones(4), atol=1e-3)
    assert after.mean.mean((0, 2, 3)).abs().max() < 1e-3
    ratio = (after.mean.std((0, 2, 3)) / before.mean.std((0, 2, 3)))[:, None, None]
    assert torch.allclose(after.std, before.std * ratio, rtol=1e-3)
