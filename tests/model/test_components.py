"""VAEs in 16 bits, and of both kinds."""

import pytest
import torch

from sdxl.core.errors import UserError
from sdxl.core.paths import BUNDLED
from sdxl.model.components import check_half, encode, scale
from sdxl.model.weights import WeightSource
from tests.model.conftest import settings

CPU = torch.device("cpu")


def vae(dtype):
    return WeightSource(settings(BUNDLED)).component("vae", dtype, CPU)


def overflowing(dtype):
    found = vae(dtype)
    found.decoder.conv_in.weight.data.mul_(1e4)
    return found


def test_a_vae_that_draws_in_fp16_is_taken():
    check_half(vae(torch.float16))


def test_one_that_overflows_is_refused_with_the_line_to_type():
    check_half(overflowing(torch.float32))
    with pytest.raises(UserError, match="draws NaN, Inf or one colour in fp16") as caught:
        check_half(overflowing(torch.float16))
    assert "precision.vae=fp32" in str(caught.value) and "model.vae=FOLDER" in str(caught.value)


def test_a_configuration_that_allows_fp16_spares_the_trial():
    found = overflowing(torch.float16)
    found.register_to_config(force_upcast=False)
    check_half(found)  # the first picture would tell


def test_both_kinds_of_vae_encode():
    from diffusers import AutoencoderTiny

    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    torch.manual_seed(0)
    tiny, own = AutoencoderTiny().eval(), vae(torch.float32)
    with torch.inference_mode():
        assert torch.equal(encode(tiny, pixels), tiny.encode(pixels).latents)
        mean = own.encode(pixels).latent_dist.mean
        assert torch.equal(encode(own, pixels), scale(mean, own.config))


def test_fp16_is_refused_for_the_published_vae_alone(load):
    words = ("model=sdxl", "precision.vae=fp16", "rules=open")
    assert load(*words, "model.path=FOLDER") and load(*words, "model.vae=FOLDER")
    with pytest.raises(Exception, match="VAE overflows in fp16"):
        load(*words)
